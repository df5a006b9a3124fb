// range_ids.go
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const url = "http://127.0.0.1:8080/v1/counters/orders/next?format=ranges&count=100"

type IDs struct {
	sync.Mutex
	held  []struct{ First, Step, Count int64 }
	until time.Time
}

func (ids *IDs) Next() (int64, error) {
	ids.Lock()
	defer ids.Unlock()
	if len(ids.held) == 0 || time.Now().After(ids.until) {
		ids.until = time.Now().Add(10 * time.Second)
		ids.held = nil
		response, err := http.Post(url, "", nil)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		answer := struct{ Ranges *[]struct{ First, Step, Count int64 } }{&ids.held}
		err = json.NewDecoder(response.Body).Decode(&answer)
		if err != nil || response.StatusCode != http.StatusOK || len(ids.held) == 0 {
			ids.held = nil
			return 0, fmt.Errorf("no ids: %s, %v", response.Status, err)
		}
	}
	block := &ids.held[0]
	id := block.First
	block.First, block.Count = block.First+block.Step, block.Count-1
	if block.Count == 0 {
		ids.held = ids.held[1:]
	}
	return id, nil
}

func main() {
	ids, seen := &IDs{}, map[int64]bool{}
	for range 250 {
		id, err := ids.Next()
		if err != nil {
			panic(err)
		}
		seen[id] = true
	}
	fmt.Println("Go:", len(seen), "different ids of 250")
}
