// A WASI 0.1 core module that answers in CGI form (RFC 3875), as any C program of the last thirty years could:
// the request is in the environment and on stdin, the response goes to stdout. PATH_INFO picks what it does:
//
//   /       JSON of its whole environment
//   /echo   stdin, streamed back
//   /files  what came of the steps on stdin, one a line: see step()
//   /http        stdin is written to /run/minnow/http, and what it answers to stdout
//   /http/stdio  the same with fopen
//   /http/steps  what came of the steps on stdin, each ended by a zero byte: see http_step()
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

static const char *const HTTP = "/run/minnow/http";

static int write_to(int file, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(file, bytes, length);
    if (written < 0)
      return -1;
    bytes += written;
    length -= (size_t)written;
  }
  return 0;
}

// What the lock that was taken last has as its token.
static char token[32];

static int copy(int from, int to) {
  static char chunk[64 * 1024 + 1];
  for (;;) {
    ssize_t count = read(from, chunk, sizeof chunk - 1);
    if (count <= 0)
      return (int)count;
    chunk[count] = 0;
    const char *found = strstr(chunk, "\"token\":");
    if (found)
      sscanf(found, "\"token\":%31[0-9]", token);
    if (write_to(to, chunk, (size_t)count) != 0)
      return -1;
  }
}

static int http(void) {
  printf("Content-Type: application/octet-stream\n\n");
  fflush(stdout);
  int connection = open(HTTP, O_RDWR);
  if (connection < 0 || copy(STDIN_FILENO, connection) != 0 || copy(connection, STDOUT_FILENO) != 0) {
    printf("%s\n", strerror(errno));
    return 0;
  }
  return close(connection) == 0 ? 0 : 1;
}

// As ISO C has it: with a positioning call between writing and reading, which a stream refuses.
static int http_stdio(void) {
  static char text[64 * 1024];
  printf("Content-Type: application/octet-stream\n\n");
  FILE *connection = fopen(HTTP, "r+");
  if (!connection) {
    printf("%s\n", strerror(errno));
    return 0;
  }
  size_t count;
  while ((count = fread(text, 1, sizeof text, stdin)) > 0)
    fwrite(text, 1, count, connection);
  const char *query = getenv("QUERY_STRING");
  if (query && strcmp(query, "seek") == 0)
    fseek(connection, 0, SEEK_CUR);
  else
    fflush(connection);
  while ((count = fread(text, 1, sizeof text, connection)) > 0)
    fwrite(text, 1, count, stdout);
  fclose(connection);
  return 0;
}

// a REQUEST  opens, writes, reads to the end, and closes; TOKEN in it stands for the token of the last lock
// w REQUEST  opens and writes; the first one is connection 0, and so on
// r N, c N   reads connection N to its end and closes it; closes it at once
// s N        reads the status of the answer on connection N, and leaves it open
// m          opens as many as there can be, and closes them
// p          looks for places in it, and what it is
// f MODE     opens it with fopen
// Each answers what it has read, or a word, and a zero byte.
static void http_step(char *step, size_t length, int *kept, int *count) {
  char name = step[0];
  int number = length > 1 ? atoi(step + 1) : 0;
  fflush(stdout);
  char *place = name == 'a' ? strstr(step, "TOKEN") : NULL;
  if (place) {
    static char with[4096];
    int count = snprintf(with, sizeof with, "%.*s%s%s", (int)(place - step), step, token, place + 5);
    step = with;
    length = (size_t)count;
  }
  if (name == 'a' || name == 'w') {
    int connection = open(HTTP, O_RDWR);
    if (connection < 0 || write_to(connection, step + 1, length - 1) != 0)
      printf("%s", strerror(errno));
    else if (name == 'w')
      kept[(*count)++] = connection;
    else if (copy(connection, STDOUT_FILENO) != 0)
      printf("%s", strerror(errno));
    if (name == 'a' && connection >= 0)
      close(connection);
  } else if (name == 'r' || name == 'c') {
    if (name == 'r' && copy(kept[number], STDOUT_FILENO) != 0)
      printf("%s", strerror(errno));
    close(kept[number]);
  } else if (name == 's') {
    char status[12];
    for (ssize_t had = 0, count; had < 12; had += count) {
      count = read(kept[number], status + had, (size_t)(12 - had));
      if (count <= 0)
        break;
      printf("%.*s", (int)count, status + had);
    }
  } else if (name == 'm') {
    int many[64], made = 0;
    while (made < 64 && (many[made] = open(HTTP, O_RDWR)) >= 0)
      made++;
    printf("%d %s", made, strerror(errno));
    while (made > 0)
      close(many[--made]);
  } else if (name == 'p') {
    int connection = open(HTTP, O_RDWR);
    char byte = 0;
    errno = 0;
    printf("%d", (int)lseek(connection, 0, SEEK_CUR));
    printf(" %s;", strerror(errno));
    printf("%d", (int)pread(connection, &byte, 1, 0));
    printf(" %s;", strerror(errno));
    printf("%d", ftruncate(connection, 0));
    printf(" %s;", strerror(errno));
    struct stat found;
    fstat(connection, &found);
    printf("%d %d %lld", S_ISREG(found.st_mode), isatty(connection), (long long)found.st_size);
    close(connection);
  } else if (name == 'f') {
    // What fopen makes of a mode.
    errno = 0;
    FILE *connection = fopen(HTTP, step + 1);
    printf("%s", connection ? "ok" : strerror(errno));
    if (connection)
      fclose(connection);
  }
  putchar(0);
}

static int http_steps(void) {
  static char all[1 << 20];
  static int kept[64];
  int count = 0;
  printf("Content-Type: application/octet-stream\n\n");
  size_t length = fread(all, 1, sizeof all - 1, stdin);
  for (size_t at = 0; at < length;) {
    size_t end = at;
    while (end < length && all[end])
      end++;
    all[end] = 0;
    http_step(all + at, end - at, kept, &count);
    at = end + 1;
  }
  return 0;
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
  else if (strcmp(path, "/http") == 0)
    return http();
  else if (strcmp(path, "/http/stdio") == 0)
    return http_stdio();
  else if (strcmp(path, "/http/steps") == 0)
    return http_steps();
  else
    printf("Status: 404 Not Found\nContent-Type: text/plain\n\nno such path: %s\n", path);
  return 0;
}
