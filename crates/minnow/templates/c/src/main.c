#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cgi.h"

static void greet(void) {
  const char *name = query_value("name");
  if (!name || !*name) name = "world";
  fprintf(stderr, "greeting %s\n", name);

  begin(200, "text/html; charset=utf-8");
  puts("<!doctype html>\n"
       "<html lang=\"en\">\n"
       "<meta charset=\"utf-8\">\n"
       "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
       "<title>Hello</title>\n"
       "<link rel=\"stylesheet\" href=\"/static/style.css\">\n"
       "<main>");
  fputs("<h1>", stdout);
  print_html(variable("GREETING"));
  fputs(", ", stdout);
  print_html(name);
  puts("!</h1>\n"
       "<p>This page was made by <code>src/main.c</code>.</p>\n"
       "<form><input name=\"name\" placeholder=\"Your name\"> <button>Greet</button></form>\n"
       "</main>");
}

// Answers how long the text in the request's body is. It is read in pieces, so it may be longer than memory.
static void count(void) {
  char piece[16 * 1024];
  size_t length, bytes = 0, words = 0;
  bool in_word = false;
  while ((length = fread(piece, 1, sizeof piece, stdin)) > 0) {
    bytes += length;
    for (size_t i = 0; i < length; i++) {
      bool is_space = isspace((unsigned char)piece[i]);
      if (!is_space && !in_word) words++;
      in_word = !is_space;
    }
  }
  begin(200, "application/json");
  printf("{\"bytes\":%zu,\"words\":%zu}\n", bytes, words);
}

// Started once for each request, in a sandbox of its own.
int main(void) {
  const char *method = variable("REQUEST_METHOD");
  const char *path = variable("PATH_INFO");
  bool is_get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
  if (strcmp(path, "/") == 0 && is_get) {
    greet();
  } else if (strcmp(path, "/count") == 0 && strcmp(method, "POST") == 0) {
    count();
  } else {
    begin(404, "text/plain");
    puts("There is nothing here.");
  }
  return 0;
}
