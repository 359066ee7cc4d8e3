#include "cgi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *variable(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

static int hex_digit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

// Copies `length` bytes with `+` and `%xx` decoded.
static char *decode(const char *text, size_t length) {
  char *decoded = malloc(length + 1);
  if (!decoded) abort();
  size_t end = 0;
  for (size_t i = 0; i < length; i++) {
    int high = -1, low = -1;
    if (text[i] == '%' && i + 2 < length) {
      high = hex_digit(text[i + 1]);
      low = hex_digit(text[i + 2]);
    }
    if (high >= 0 && low >= 0) {
      decoded[end++] = (char)(high * 16 + low);
      i += 2;
    } else {
      decoded[end++] = text[i] == '+' ? ' ' : text[i];
    }
  }
  decoded[end] = '\0';
  return decoded;
}

const char *query_value(const char *name) {
  size_t name_length = strlen(name);
  const char *pair = variable("QUERY_STRING");
  while (*pair) {
    size_t length = strcspn(pair, "&");
    if (length > name_length && pair[name_length] == '=' && strncmp(pair, name, name_length) == 0) {
      return decode(pair + name_length + 1, length - name_length - 1);
    }
    pair += length;
    if (*pair == '&') pair++;
  }
  return NULL;
}

void begin(int status, const char *content_type) {
  printf("Status: %d\nContent-Type: %s\n\n", status, content_type);
}

void print_html(const char *text) {
  for (; *text; text++) {
    switch (*text) {
      case '&': fputs("&amp;", stdout); break;
      case '<': fputs("&lt;", stdout); break;
      case '>': fputs("&gt;", stdout); break;
      case '"': fputs("&quot;", stdout); break;
      case '\'': fputs("&#39;", stdout); break;
      default: putchar(*text);
    }
  }
}
