// A WASI 0.1 core module that answers in CGI form (RFC 3875), as any C program of the last thirty years could:
// the request is in the environment and on stdin, the response goes to stdout. PATH_INFO picks what it does:
//
//   /       JSON of its whole environment
//   /echo   stdin, streamed back
//   /files  what came of the steps on stdin, one a line: see step()
//   other   Status: 404 Not Found

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

static int write_many(int file, long count, long at) {
  static char piece[64 * 1024];
  memset(piece, 'x', sizeof piece);
  while (count > 0) {
    size_t next = count < (long)sizeof piece ? (size_t)count : sizeof piece;
    ssize_t written = at < 0 ? write(file, piece, next) : pwrite(file, piece, next, at);
    if (written < 0)
      return -1;
    count -= written;
    at = at < 0 ? at : at + written;
  }
  return 0;
}

// STEP PATH [PATH | NUMBER [NUMBER]]; "ok", what was asked for, or the error.
static void step(const char *line) {
  char name[16] = "", path[512] = "", to[512] = "";
  long offset = 0;
  sscanf(line, "%15s %511s %511s %ld", name, path, to, &offset);
  long number = atol(to);
  int file = -1, result = 0;
  errno = 0;
  if (strcmp(name, "fill") == 0)
    result = (file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644)) < 0 ? -1 : write_many(file, number, -1);
  else if (strcmp(name, "append") == 0)
    result = (file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644)) < 0 ? -1 : write_many(file, number, -1);
  else if (strcmp(name, "pwrite") == 0)
    result = (file = open(path, O_WRONLY | O_CREAT, 0644)) < 0 ? -1 : write_many(file, number, offset);
  else if (strcmp(name, "resize") == 0)
    result = (file = open(path, O_WRONLY)) < 0 ? -1 : ftruncate(file, number);
  else if (strcmp(name, "sync") == 0)
    result = (file = open(path, O_WRONLY)) < 0 ? -1 : fsync(file);
  else if (strcmp(name, "remove") == 0)
    result = unlink(path);
  else if (strcmp(name, "mkdir") == 0)
    result = mkdir(path, 0755);
  else if (strcmp(name, "rmdir") == 0)
    result = rmdir(path);
  else if (strcmp(name, "rename") == 0)
    result = rename(path, to);
  else if (strcmp(name, "link") == 0)
    result = link(path, to);
  else if (strcmp(name, "symlink") == 0)
    result = symlink(to, path);
  else if (strcmp(name, "hold") == 0)
    result = open(path, O_RDONLY); // stays open
  else if (strcmp(name, "many") == 0) {
    long made = 0;
    for (; made < number; made++) {
      char each[600];
      snprintf(each, sizeof each, "%s%ld", path, made);
      if ((file = open(each, O_WRONLY | O_CREAT | O_EXCL, 0644)) < 0)
        break;
      close(file);
      file = -1;
    }
    printf("%ld\n", made);
    return;
  } else if (strcmp(name, "size") == 0) {
    struct stat found;
    if ((result = stat(path, &found)) == 0) {
      printf("%lld\n", (long long)found.st_size);
      return;
    }
  } else if (strcmp(name, "read") == 0) {
    char piece[64];
    ssize_t count = (file = open(path, O_RDONLY)) < 0 ? -1 : read(file, piece, sizeof piece);
    if ((result = count < 0 ? -1 : 0) == 0)
      printf("%.*s\n", (int)count, piece);
    if (file >= 0)
      close(file);
    if (result == 0)
      return;
    file = -1;
  } else if (strcmp(name, "list") == 0) {
    DIR *folder = opendir(path);
    if (folder) {
      for (struct dirent *entry; (entry = readdir(folder));)
        printf("%s ", entry->d_name);
      printf("\n");
      closedir(folder);
      return;
    }
    result = -1;
  } else {
    printf("no such step\n");
    return;
  }
  printf("%s\n", result < 0 ? strerror(errno) : "ok");
  if (file >= 0)
    close(file);
}

static void steps(void) {
  char line[1200];
  printf("Content-Type: text/plain\n\n");
  while (fgets(line, sizeof line, stdin))
    step(line);
}

int main(void) {
  const char *path = getenv("PATH_INFO");
  if (!path || !*path || strcmp(path, "/") == 0)
    print_environment();
  else if (strcmp(path, "/echo") == 0)
    return echo();
  else if (strcmp(path, "/files") == 0)
    steps();
  else
    printf("Status: 404 Not Found\nContent-Type: text/plain\n\nno such path: %s\n", path);
  return 0;
}
