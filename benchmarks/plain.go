// The usual way to do it in Go: net/http and an atomic counter. Run as: plain PORT
package main

import (
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
)

func main() {
	var last atomic.Int64
	http.HandleFunc("/next", func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Type", "text/plain; charset=utf-8")
		w.Write(strconv.AppendInt(nil, last.Add(1), 10))
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		os.Exit(1)
	}
}
