//! Different components that behave the same: copies of one that differ in a custom section.

/// The component or core module with a custom section added that holds `number`. Engines skip custom sections, but the
/// digest differs, so that nothing is shared between two of these.
///
/// A section is its id (0 for custom), its length, and here its name and contents; lengths are unsigned LEB128. Modules
/// and components have this in common: <https://webassembly.github.io/spec/core/binary/modules.html#custom-section>.
pub(crate) fn with_number(wasm: &[u8], number: u32) -> Vec<u8> {
    const NAME: &[u8] = b"bench";
    let mut section = leb128(NAME.len());
    section.extend_from_slice(NAME);
    section.extend_from_slice(&number.to_le_bytes());
    let mut distinct = wasm.to_vec();
    distinct.push(0);
    distinct.extend(leb128(section.len()));
    distinct.extend(section);
    distinct
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_leb128() {
        for (value, expected) in
            [(0, vec![0]), (127, vec![127]), (128, vec![0x80, 1]), (624_485, vec![0xe5, 0x8e, 0x26])]
        {
            assert_eq!(leb128(value), expected, "{value}");
        }
    }

    #[test]
    fn the_section_holds_the_number() {
        let added = with_number(b"\0asm", 7);
        assert_eq!(added, b"\0asm\x00\x0a\x05bench\x07\0\0\0");
        assert_ne!(added, with_number(b"\0asm", 8));
    }
}
