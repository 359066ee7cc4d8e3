// The tour's C function: a plain program that speaks CGI (RFC 3875), compiled for WASI 0.1. PATH_INFO is the part of
// the path after /cgi:
//
//   GET /cgi         the environment that the program was given
//   POST /cgi/shout  the request's body in upper case, streamed

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static void show_environment(void) {
  printf("Content-Type: text/plain; charset=utf-8\n\n");
  printf("This is a C program. It was given this environment, and nothing else:\n\n");
  for (char **entry = environ; *entry; entry++)
    printf("  %s\n", *entry);
}

static int shout(void) {
  static char chunk[64 * 1024];
  ssize_t count;
  printf("Content-Type: text/plain; charset=utf-8\n\n");
  while ((count = read(STDIN_FILENO, chunk, sizeof chunk)) > 0) {
    for (ssize_t i = 0; i < count; i++)
      chunk[i] = (char)toupper((unsigned char)chunk[i]);
    if (fwrite(chunk, 1, (size_t)count, stdout) != (size_t)count || fflush(stdout) != 0)
      return 1;
  }
  return count == 0 ? 0 : 1;
}

int main(void) {
  const char *path = getenv("PATH_INFO");
  if (!path || !*path || strcmp(path, "/") == 0)
    show_environment();
  else if (strcmp(path, "/shout") == 0)
    return shout();
  else
    printf("Status: 404 Not Found\nContent-Type: text/plain\n\nThere is no %s here.\n", path);
  return 0;
}
