//! The Common Gateway Interface (RFC 3875): how a request comes in and an answer goes out.

const std = @import("std");
const Io = std.Io;

pub const Request = struct {
    method: []const u8,
    path: []const u8,
    query: []const u8,
    body: *Io.Reader,
    /// The variables of the manifest's `env`, and the request's headers as HTTP_NAME.
    env: *std.process.Environ.Map,
    arena: std.mem.Allocator,

    /// The decoded value of `name` in the query.
    pub fn param(request: Request, name: []const u8) !?[]const u8 {
        var pairs = std.mem.tokenizeScalar(u8, request.query, '&');
        while (pairs.next()) |pair| {
            const key, const value = std.mem.cutScalar(u8, pair, '=') orelse .{ pair, "" };
            if (!std.mem.eql(u8, key, name)) continue;
            const copy = try request.arena.dupe(u8, value);
            std.mem.replaceScalar(u8, copy, '+', ' ');
            return std.Uri.percentDecodeInPlace(copy);
        }
        return null;
    }
};

pub const Response = struct {
    body: *Io.Writer,

    /// Writes the head of the answer. The body is what is written to `body` after it.
    pub fn begin(response: Response, status: u16, content_type: []const u8) !void {
        try response.body.print("Status: {d}\nContent-Type: {s}\n\n", .{ status, content_type });
    }
};

/// Text that is written so that a browser shows it as it is: print it with `{f}`.
pub const Html = struct {
    text: []const u8,

    pub fn format(html: Html, writer: *Io.Writer) Io.Writer.Error!void {
        for (html.text) |byte| switch (byte) {
            '&' => try writer.writeAll("&amp;"),
            '<' => try writer.writeAll("&lt;"),
            '>' => try writer.writeAll("&gt;"),
            '"' => try writer.writeAll("&quot;"),
            '\'' => try writer.writeAll("&#39;"),
            else => try writer.writeByte(byte),
        };
    }
};

/// Reads the request, has `handle` answer it, and sends what is left in the buffer.
pub fn serve(init: std.process.Init, handle: fn (Request, Response) anyerror!void) !void {
    var read_buffer: [16 * 1024]u8 = undefined;
    var stdin = Io.File.stdin().readerStreaming(init.io, &read_buffer);
    var write_buffer: [16 * 1024]u8 = undefined;
    var stdout = Io.File.stdout().writerStreaming(init.io, &write_buffer);
    const env = init.environ_map;
    try handle(.{
        .method = env.get("REQUEST_METHOD") orelse "GET",
        .path = env.get("PATH_INFO") orelse "/",
        .query = env.get("QUERY_STRING") orelse "",
        .body = &stdin.interface,
        .env = env,
        .arena = init.arena.allocator(),
    }, .{ .body = &stdout.interface });
    try stdout.interface.flush();
}
