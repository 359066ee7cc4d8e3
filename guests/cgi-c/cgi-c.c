// A WASI 0.1 core module that answers in CGI form (RFC 3875), as any C program of the last thirty years could:
// the request is in the environment and on stdin, the response goes to stdout. PATH_INFO picks what it does:
//
//   /       JSON of its whole environment
//   /echo   stdin, streamed back
//   other   Status: 404 Not Found

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static void print_json_string(const char *text, size_t length) {
  putchar('"');
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c == '"' || c == '\\')
      printf("\\%c", c);
    else if (c < 0x20)
      printf("\\u%04x", c);
    else
      putchar(c);
  }
  putchar('"');
}

static void print_environment(void) {
  printf("Content-Type: application/json\n\n{");
  for (char **entry = environ; *entry; entry++) {
    const char *equals = strchr(*entry, '=');
    if (!equals)
      continue;
    if (entry != environ)
      putchar(',');
    print_json_string(*entry, (size_t)(equals - *entry));
    putchar(':');
    print_json_string(equals + 1, strlen(equals + 1));
  }
  printf("}");
}

static int write_all(const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(STDOUT_FILENO, bytes, length);
    if (written < 0)
      return -1;
    bytes += written;
    length -= (size_t)written;
  }
  return 0;
}

static int echo(void) {
  static char chunk[64 * 1024];
  const char *type = getenv("CONTENT_TYPE");
  printf("Content-Type: %s\n\n", type && *type ? type : "application/octet-stream");
  fflush(stdout);
  for (;;) {
    ssize_t count = read(STDIN_FILENO, chunk, sizeof chunk);
    if (count <= 0)
      return count == 0 ? 0 : 1;
    if (write_all(chunk, (size_t)count) != 0)
      return 1;
  }
}

int main(void) {
  const char *path = getenv("PATH_INFO");
  if (!path || !*path || strcmp(path, "/") == 0)
    print_environment();
  else if (strcmp(path, "/echo") == 0)
    return echo();
  else
    printf("Status: 404 Not Found\nContent-Type: text/plain\n\nno such path: %s\n", path);
  return 0;
}
