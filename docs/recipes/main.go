// main.go
package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const url = "http://127.0.0.1:8080/v1/counters/orders/next"

var client = &http.Client{Timeout: 5 * time.Second}

// nextID returns an id; it tries again while the service says that this may help.
func nextID(tries int) (int64, error) {
	response, err := client.Post(url, "", nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	if response.StatusCode == http.StatusOK {
		return strconv.ParseInt(string(body), 10, 64)
	}
	if response.StatusCode == http.StatusServiceUnavailable && tries > 1 {
		time.Sleep(time.Second)
		return nextID(tries - 1)
	}
	return 0, fmt.Errorf("%s: %s", response.Status, body)
}

func main() {
	id, err := nextID(3)
	if err != nil {
		panic(err)
	}
	fmt.Println(id)
}
