//! What esbuild and its callers say to each other: packets of values, as esbuild's own JavaScript API reads and writes them
//! (`lib/shared/stdio_protocol.ts` in its sources).
//!
//! A packet is its length, an id and a value. All numbers are four bytes, the lowest first. The id's lowest bit says whether
//! it is an answer; the rest is the id of the request.

/// The longest packet that is read, in bytes. The longest answer holds a bundle with its map; a node takes 128 MiB.
const MAX_BYTES: usize = 512 << 20;
/// How deep values may lie in values. esbuild's lie five deep.
const MAX_DEPTH: usize = 32;

/// A value in a packet.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(u32),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    /// Keys in the order in which they came.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// The value under `key` of a map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Takes the value under `key` out of a map.
    pub fn take(&mut self, key: &str) -> Option<Self> {
        match self {
            Self::Map(entries) => {
                let value = entries.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value)?;
                Some(std::mem::replace(value, Self::Null))
            }
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<u32> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The bytes of bytes or of a text.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Text(text) => Some(text.into_bytes()),
            _ => None,
        }
    }

    /// The entries of a list; none of anything else.
    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }

    /// The entries of a list; none of anything else.
    pub fn into_list(self) -> Vec<Self> {
        match self {
            Self::List(list) => list,
            _ => Vec::new(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A map of these entries.
pub fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// One packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    /// Below 2³¹.
    pub id: u32,
    pub is_request: bool,
    pub value: Value,
}

/// Bytes that are no packet.
#[derive(Debug, thiserror::Error)]
#[error("esbuild said something that is no packet of its protocol")]
pub struct BadPacket;

impl Packet {
    /// The packet with its length before it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        put_number(&mut bytes, self.id << 1 | u32::from(!self.is_request));
        put(&mut bytes, &self.value);
        let length = length(bytes.len() - 4);
        bytes.splice(..4, length);
        bytes
    }

    /// Reads what follows the length.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadPacket> {
        let mut rest = bytes;
        let id = number(&mut rest)?;
        let value = value(&mut rest, 0)?;
        if !rest.is_empty() {
            return Err(BadPacket);
        }
        Ok(Self { id: id >> 1, is_request: id & 1 == 0, value })
    }
}

/// The length of the packet that begins with these four bytes.
pub fn packet_length(bytes: [u8; 4]) -> Result<usize, BadPacket> {
    usize::try_from(u32::from_le_bytes(bytes)).ok().filter(|length| *length <= MAX_BYTES).ok_or(BadPacket)
}

fn length(length: usize) -> [u8; 4] {
    // What is written are flags and paths, which are far shorter.
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn put_number(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend(number.to_le_bytes());
}

fn put_bytes(bytes: &mut Vec<u8>, content: &[u8]) {
    bytes.extend(length(content.len()));
    bytes.extend(content);
}

fn put(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => bytes.push(0),
        Value::Bool(is) => bytes.extend([1, u8::from(*is)]),
        Value::Number(number) => {
            bytes.push(2);
            put_number(bytes, *number);
        }
        Value::Text(text) => {
            bytes.push(3);
            put_bytes(bytes, text.as_bytes());
        }
        Value::Bytes(content) => {
            bytes.push(4);
            put_bytes(bytes, content);
        }
        Value::List(list) => {
            bytes.push(5);
            bytes.extend(length(list.len()));
            list.iter().for_each(|value| put(bytes, value));
        }
        Value::Map(entries) => {
            bytes.push(6);
            bytes.extend(length(entries.len()));
            for (key, value) in entries {
                put_bytes(bytes, key.as_bytes());
                put(bytes, value);
            }
        }
    }
}

fn take<'b>(rest: &mut &'b [u8], count: usize) -> Result<&'b [u8], BadPacket> {
    let (taken, left) = rest.split_at_checked(count).ok_or(BadPacket)?;
    *rest = left;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> Result<u32, BadPacket> {
    let bytes = take(rest, 4)?.try_into().map_err(|_| BadPacket)?;
    Ok(u32::from_le_bytes(bytes))
}

fn content<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], BadPacket> {
    let length = number(rest)?;
    take(rest, length as usize)
}

/// A text. Sources need not be UTF-8, and a line of theirs is shown all the same.
fn text(rest: &mut &[u8]) -> Result<String, BadPacket> {
    Ok(String::from_utf8_lossy(content(rest)?).into_owned())
}

fn value(rest: &mut &[u8], depth: usize) -> Result<Value, BadPacket> {
    if depth > MAX_DEPTH {
        return Err(BadPacket);
    }
    // No room is made for as many entries as a packet says it has: it may say anything.
    Ok(match take(rest, 1)? {
        [0] => Value::Null,
        [1] => Value::Bool(take(rest, 1)? != [0]),
        [2] => Value::Number(number(rest)?),
        [3] => Value::Text(text(rest)?),
        [4] => Value::Bytes(content(rest)?.to_vec()),
        [5] => {
            let count = number(rest)?;
            Value::List((0..count).map(|_| value(rest, depth + 1)).collect::<Result<_, _>>()?)
        }
        [6] => {
            let count = number(rest)?;
            let entry = |_| Ok((text(rest)?, value(rest, depth + 1)?));
            Value::Map((0..count).map(entry).collect::<Result<_, _>>()?)
        }
        _ => return Err(BadPacket),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_reads_back() {
        let value = map([
            ("null", Value::Null),
            ("list", Value::List(vec![Value::Bool(true), Value::Bool(false), Value::Number(u32::MAX)])),
            ("text", "ü".into()),
            ("bytes", Value::Bytes(vec![0, 255])),
            ("map", map([("", Value::Map(Vec::new()))])),
        ]);
        for is_request in [true, false] {
            let packet = Packet { id: 77, is_request, value: value.clone() };
            let bytes = packet.encode();
            let (length, rest) = bytes.split_first_chunk().unwrap();
            assert_eq!(packet_length(*length).unwrap(), rest.len());
            assert_eq!(Packet::decode(rest).unwrap(), packet);
        }
    }

    #[test]
    fn a_packet_is_written_as_esbuild_does() {
        let packet = Packet { id: 1, is_request: false, value: map([("a", Value::Number(5))]) };
        assert_eq!(
            packet.encode(),
            [&[19, 0, 0, 0, 3, 0, 0, 0][..], &[6, 1, 0, 0, 0, 1, 0, 0, 0, b'a'], &[2, 5, 0, 0, 0]].concat()
        );
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let deep: Vec<u8> = [vec![0; 4], [5, 1, 0, 0, 0].repeat(100), vec![0]].concat();
        for bytes in [
            &[][..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 7],
            &[0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 3, 9, 0, 0, 0, b'a'],
            &[0, 0, 0, 0, 5, 255, 255, 255, 255],
            &[0, 0, 0, 0, 6, 255, 255, 255, 255, 0],
            &deep,
        ] {
            assert!(Packet::decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(packet_length([255; 4]).is_err());
    }
}
