import os
from html import escape

from minnow import Request, Response, serve

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{greeting}</title>
<link rel="stylesheet" href="/static/style.css">
<main>
<h1>{greeting}, {name}!</h1>
<p>This page was made by <code>app.py</code>.</p>
<form><input name="name" placeholder="Your name"> <button>Greet</button></form>
</main>
"""


def handle(request: Request) -> Response:
    match request.method, request.path:
        case "GET" | "HEAD", "/":
            return greet(request)
        case "POST", "/count":
            return count(request)
    return Response("There is nothing here.\n", status=404)


def greet(request: Request) -> Response:
    name = request.query("name") or "world"
    print(f"greeting {name}")
    greeting = os.environ.get("GREETING", "Hello")
    return Response.html(PAGE.format(greeting=escape(greeting), name=escape(name)))


def count(request: Request) -> Response:
    """Answers how long the text in the request's body is."""
    text = request.body.read()
    return Response.json({"bytes": len(text), "words": len(text.split())})


IncomingHandler = serve(handle)
