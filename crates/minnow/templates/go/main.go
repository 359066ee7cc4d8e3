package main

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"os"
	"strings"
)

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%[1]s</title>
<link rel="stylesheet" href="/static/style.css">
<main>
<h1>%[1]s, %[2]s!</h1>
<p>This page was made by <code>main.go</code>.</p>
<form><input name="name" placeholder="Your name"> <button>Greet</button></form>
</main>
`

// Started once for each request, in a sandbox of its own.
func main() {
	log.SetFlags(0) // The node notes the time of each line.
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", greet)
	mux.HandleFunc("POST /count", count)
	if err := cgi.Serve(withBody(mux)); err != nil {
		log.Fatal(err)
	}
}

func greet(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name")
	if name == "" {
		name = "world"
	}
	log.Printf("greeting %s", name)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, page, html.EscapeString(os.Getenv("GREETING")), html.EscapeString(name))
}

// count answers how long the text in the request's body is.
func count(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]int{"bytes": len(body), "words": len(strings.Fields(string(body)))})
}

// withBody gives next also a body that comes in chunks: net/http/cgi only reads one whose length was sent.
func withBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if os.Getenv("CONTENT_LENGTH") == "" {
			r.Body = os.Stdin
		}
		next.ServeHTTP(w, r)
	})
}
