//! WebAssembly that no compiler would make.

/// A core module from its text.
pub fn module(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A command that answers `body` in CGI form.
pub fn cgi(body: &str) -> Vec<u8> {
    prints(&format!("Content-Type: text/plain\n\n{body}"))
}

/// A command that writes `text` to its standard output.
pub fn prints(text: &str) -> Vec<u8> {
    let output: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let length = text.len();
    module(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00")
            (data (i32.const 16) "{output}")
            (func (export "_start")
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    ))
}

/// A small core module that is hard to compile: one function changes `locals` locals inside `levels` loops, each in the next.
/// At the head of every loop the compiler has to join the values of every local, so that its work grows with the product
/// while the code grows with the sum. 1,000 and 500 take minutes; 40,000 and 2,000 gigabytes.
pub fn bomb(locals: usize, levels: usize) -> Vec<u8> {
    let mut body = [vec![1], leb(locals), vec![0x7f]].concat(); // one group of locals, of type i32
    body.extend([0x03, 0x40].repeat(levels)); // loop
    for local in 0..locals {
        // local.get, i32.const 1, i32.add, local.set
        body.extend([vec![0x20], leb(local), vec![0x41, 1, 0x6a, 0x21], leb(local)].concat());
    }
    body.extend([0x20, 0, 0x0d, 0, 0x0b].repeat(levels)); // local.get 0, br_if 0, end
    body.push(0x0b);
    let code = [vec![2, 2, 0, 0x0b], leb(body.len()), body].concat();
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    let (types, functions, exports) = (vec![1, 0x60, 0, 0], vec![2, 0, 0], b"\x01\x06_start\0\0".to_vec());
    for (id, content) in [(1, types), (3, functions), (7, exports), (10, code)] {
        wasm.extend([vec![id], leb(content.len()), content].concat());
    }
    wasm
}

/// A number as WebAssembly writes it (unsigned LEB128).
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
