// The Common Gateway Interface (RFC 3875): how a request comes in and an answer goes out.

#ifndef CGI_H
#define CGI_H

#include <stddef.h>

// A variable of the request or of the manifest's `env`; "" where there is none.
const char *variable(const char *name);

// The decoded value of `name` in the query, or NULL. It lives until the program ends.
const char *query_value(const char *name);

// Writes the head of the answer. The body is what is printed after it.
void begin(int status, const char *content_type);

// Prints text so that a browser shows it as it is.
void print_html(const char *text);

#endif
