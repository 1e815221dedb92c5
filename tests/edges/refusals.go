// Posts to a door that refuses, as programs in Go do: the head first, then the body in pieces without a length. Prints how often
// each status came, with its whole body.
//
//	refusals direct|proxied URL BODY_BYTES COUNT
//
// Proxied, the requests pass a reverse proxy of Go's own, as they do in OpenFaaS' gateway.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
)

// How much of a body is written at a time.
const pieceBytes = 16 << 10

// What a refusal says.
type refusal struct {
	Error struct {
		Class string `json:"class"`
	} `json:"error"`
}

// A body that comes in pieces: a transport sends the head before it has the first of them.
func inPieces(size int) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		piece := make([]byte, pieceBytes)
		for i := range piece {
			piece[i] = 'x'
		}
		for left := size; left > 0; left -= len(piece) {
			if left < len(piece) {
				piece = piece[:left]
			}
			// Whoever reads no further has closed the other end.
			if _, err := writer.Write(piece); err != nil {
				return
			}
		}
		writer.Close()
	}()
	return reader
}

// Posts once and says what came: the status and the class, or why there is none.
func post(client *http.Client, to string, size int) string {
	answer, err := client.Post(to, "text/plain", inPieces(size))
	if err != nil {
		return "no answer: " + err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Sprintf("%d broken off: %v", answer.StatusCode, err)
	}
	var said refusal
	if err := json.Unmarshal(body, &said); err != nil {
		return fmt.Sprintf("%d without words", answer.StatusCode)
	}
	return fmt.Sprintf("%d %s", answer.StatusCode, said.Error.Class)
}

// Serves a reverse proxy to `to` and gives its address.
func proxy(to string) string {
	target, err := url.Parse(to)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	passing := httputil.NewSingleHostReverseProxy(target)
	passing.ErrorLog = log.New(io.Discard, "", 0)
	go http.Serve(listener, passing)
	return "http://" + listener.Addr().String() + "/"
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: refusals direct|proxied URL BODY_BYTES COUNT")
	}
	to := os.Args[2]
	size, wrongSize := strconv.Atoi(os.Args[3])
	count, wrongCount := strconv.Atoi(os.Args[4])
	if wrongSize != nil || wrongCount != nil {
		log.Fatal("BODY_BYTES and COUNT are numbers")
	}
	if os.Args[1] == "proxied" {
		to = proxy(to)
	}
	seen := map[string]int{}
	for range count {
		seen[post(http.DefaultClient, to, size)]++
	}
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		log.Fatal(err)
	}
}
