const std = @import("std");
const cgi = @import("cgi.zig");

// Which lines of std.log are kept. They go to the app's log.
pub const std_options: std.Options = .{ .log_level = .info };

/// Started once for each request, in a sandbox of its own.
pub fn main(init: std.process.Init) !void {
    try cgi.serve(init, handle);
}

fn handle(request: cgi.Request, response: cgi.Response) !void {
    const is_get = std.mem.eql(u8, request.method, "GET") or std.mem.eql(u8, request.method, "HEAD");
    const is_post = std.mem.eql(u8, request.method, "POST");
    if (is_get and std.mem.eql(u8, request.path, "/")) return greet(request, response);
    if (is_post and std.mem.eql(u8, request.path, "/count")) return count(request, response);
    try response.begin(404, "text/plain");
    try response.body.writeAll("There is nothing here.\n");
}

fn greet(request: cgi.Request, response: cgi.Response) !void {
    const given = try request.param("name") orelse "";
    const name: cgi.Html = .{ .text = if (given.len > 0) given else "world" };
    const greeting: cgi.Html = .{ .text = request.env.get("GREETING") orelse "Hello" };
    std.log.info("greeting {s}", .{name.text});

    try response.begin(200, "text/html; charset=utf-8");
    try response.body.print(
        \\<!doctype html>
        \\<html lang="en">
        \\<meta charset="utf-8">
        \\<meta name="viewport" content="width=device-width, initial-scale=1">
        \\<title>{[greeting]f}</title>
        \\<link rel="stylesheet" href="/static/style.css">
        \\<main>
        \\<h1>{[greeting]f}, {[name]f}!</h1>
        \\<p>This page was made by <code>src/main.zig</code>.</p>
        \\<form><input name="name" placeholder="Your name"> <button>Greet</button></form>
        \\</main>
        \\
    , .{ .greeting = greeting, .name = name });
}

/// Answers how long the text in the request's body is.
fn count(request: cgi.Request, response: cgi.Response) !void {
    const text = try request.body.allocRemaining(request.arena, .unlimited);
    var words: usize = 0;
    var rest = std.mem.tokenizeAny(u8, text, &std.ascii.whitespace);
    while (rest.next()) |_| words += 1;

    try response.begin(200, "application/json");
    try response.body.print("{f}\n", .{std.json.fmt(.{ .bytes = text.len, .words = words }, .{})});
}
