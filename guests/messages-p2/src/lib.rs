//! Takes messages over `wasi:messaging`, and does what they say. It has nothing else.

mod handler;
