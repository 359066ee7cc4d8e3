//! `instr`, `replace` and the trims, with the answers of SQLite's own and in linear time; `json_patch` in bounded time.
//!
//! SQLite's take time with the product of what they are given (<https://sqlite.org/src/file/src/func.c>): `instr` of 4 MiB in 4 MiB runs for
//! minutes, and nothing stops a function inside. Values come as bytes, as SQLite takes them: what is no UTF-8 is searched too.

use std::{
    cell::RefCell,
    collections::HashSet,
    ffi::{CStr, c_int, c_void},
};

use memchr::memmem;
use rusqlite::{
    Connection, ffi,
    types::{ToSqlOutput, Value, ValueRef},
};

use super::memory;

/// The product of the bytes of what `json_patch` is given. SQLite's looks for each member of the patch among all of the object, which
/// takes a second for two of 50 KiB and a minute for two of 400 KiB (measured, on a busy machine), and nothing stops it. This is two of
/// 32 KiB, or 1 KiB for an object of 1 MiB.
const MAX_PATCH: u64 = 1 << 30;
/// What a result is marked with that is JSON, for functions that take JSON and text (`JSON_SUBTYPE` in
/// <https://sqlite.org/src/file/src/json.c>).
const IS_JSON: u32 = 74;

type Function = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);

/// Puts them in the place of SQLite's own.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    let plain = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    let functions: [(&CStr, c_int, Function, c_int); 7] = [
        (c"instr", 2, instr, plain),
        (c"replace", 3, replace, plain),
        (c"trim", 2, trim, plain),
        (c"ltrim", 2, ltrim, plain),
        (c"rtrim", 2, rtrim, plain),
        (c"json_patch", 2, json_patch, plain | ffi::SQLITE_RESULT_SUBTYPE),
        (c"jsonb_patch", 2, jsonb_patch, plain),
    ];
    for (name, arguments, function, flags) in functions {
        // SAFETY: the connection is open, the name ends with a zero, and the functions are there as long as the program.
        let code = unsafe {
            let (none, db): (*mut c_void, _) = (std::ptr::null_mut(), connection.handle());
            ffi::sqlite3_create_function_v2(db, name.as_ptr(), arguments, flags, none, Some(function), None, None, None)
        };
        if code != ffi::SQLITE_OK {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        }
    }
    Ok(())
}

/// An argument, while its function runs.
#[derive(Clone, Copy)]
struct Argument<'a> {
    bytes: &'a [u8],
    is_blob: bool,
}

impl<'a> Argument<'a> {
    fn value(self) -> ToSqlOutput<'a> {
        let Self { bytes, is_blob } = self;
        ToSqlOutput::Borrowed(if is_blob { ValueRef::Blob(bytes) } else { ValueRef::Text(bytes) })
    }
}

/// An argument. `None` when it is NULL, or memory is out, and then the answer is that: NULL where a function gives none.
///
/// # Safety
/// `context` and `values` are those of a call by SQLite with more than `index` arguments; what this gives is used in that call only.
unsafe fn argument<'a>(
    context: *mut ffi::sqlite3_context,
    values: *mut *mut ffi::sqlite3_value,
    index: usize,
) -> Option<Argument<'a>> {
    // SAFETY: there is such a value. The order type, content, length is the one that SQLite asks for; the content stays where it is until the
    // function returns, as nothing here converts it again. It is null when it is empty.
    unsafe {
        let value = *values.add(index);
        let kind = ffi::sqlite3_value_type(value);
        if kind == ffi::SQLITE_NULL {
            return None;
        }
        let content = ffi::sqlite3_value_blob(value).cast::<u8>();
        let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        let is_blob = kind == ffi::SQLITE_BLOB;
        if length == 0 {
            return Some(Argument { bytes: &[], is_blob });
        }
        if content.is_null() {
            ffi::sqlite3_result_error_nomem(context);
            return None;
        }
        Some(Argument { bytes: std::slice::from_raw_parts(content, length), is_blob })
    }
}

/// # Safety
/// As for [`argument`].
unsafe fn answer(context: *mut ffi::sqlite3_context, text: &[u8]) {
    // SAFETY: SQLite copies the text, and refuses one that is too long.
    unsafe {
        let (start, bytes) = (text.as_ptr().cast(), text.len() as u64);
        ffi::sqlite3_result_text64(context, start, bytes, ffi::SQLITE_TRANSIENT(), ffi::SQLITE_UTF8 as u8);
    }
}

thread_local! {
    /// A connection that has SQLite's own `json_patch`: one that was replaced cannot be called any more.
    static ORIGINAL: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

unsafe extern "C" fn json_patch(context: *mut ffi::sqlite3_context, _: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this, with two arguments.
    unsafe { patch(context, values, "SELECT json_patch(?1, ?2)") }
}

unsafe extern "C" fn jsonb_patch(context: *mut ffi::sqlite3_context, _: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this, with two arguments.
    unsafe { patch(context, values, "SELECT jsonb_patch(?1, ?2)") }
}

/// Has SQLite's own function answer where that takes a bounded time.
///
/// # Safety
/// As for [`argument`].
unsafe fn patch(context: *mut ffi::sqlite3_context, values: *mut *mut ffi::sqlite3_value, sql: &str) {
    // SAFETY: there are two arguments, which are used here only; SQLite copies what it is given.
    unsafe {
        let Some(target) = argument(context, values, 0) else { return };
        let Some(patch) = argument(context, values, 1) else { return };
        if (target.bytes.len() as u64).saturating_mul(patch.bytes.len() as u64) > MAX_PATCH {
            return fail(
                context,
                "json_patch of so much would take too long: give one of the two at most 32 KiB, or both less",
            );
        }
        match memory::outside(|| original(sql, target, patch)) {
            Ok(Value::Text(text)) => {
                answer(context, text.as_bytes());
                ffi::sqlite3_result_subtype(context, IS_JSON);
            }
            Ok(Value::Blob(blob)) => {
                ffi::sqlite3_result_blob64(context, blob.as_ptr().cast(), blob.len() as u64, ffi::SQLITE_TRANSIENT());
            }
            Ok(_) => {}
            Err(rusqlite::Error::SqliteFailure(_, Some(message))) => fail(context, &message),
            Err(error) => fail(context, &error.to_string()),
        }
    }
}

/// # Safety
/// As for [`argument`].
unsafe fn fail(context: *mut ffi::sqlite3_context, message: &str) {
    let length = c_int::try_from(message.len()).unwrap_or(c_int::MAX);
    // SAFETY: SQLite copies so many bytes.
    unsafe { ffi::sqlite3_result_error(context, message.as_ptr().cast(), length) }
}

fn original(sql: &str, target: Argument<'_>, patch: Argument<'_>) -> rusqlite::Result<Value> {
    ORIGINAL.with_borrow_mut(|kept| {
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(Connection::open_in_memory()?),
        };
        connection.prepare_cached(sql)?.query_row([target.value(), patch.value()], |row| row.get(0))
    })
}

unsafe extern "C" fn instr(context: *mut ffi::sqlite3_context, _: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this, with two arguments.
    unsafe {
        let Some(haystack) = argument(context, values, 0) else { return };
        let Some(needle) = argument(context, values, 1) else { return };
        let found = position(haystack.bytes, needle.bytes, !(haystack.is_blob && needle.is_blob));
        ffi::sqlite3_result_int64(context, found as i64);
    }
}

unsafe extern "C" fn replace(context: *mut ffi::sqlite3_context, _: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: SQLite calls this, with three arguments.
    unsafe {
        let Some(text) = argument(context, values, 0) else { return };
        let Some(pattern) = argument(context, values, 1) else { return };
        // SQLite takes a text that begins with a zero for the empty one. That is nowhere, and what would be in its place no matter.
        if pattern.bytes.first().is_none_or(|byte| *byte == 0) {
            return answer(context, text.bytes);
        }
        let Some(with) = argument(context, values, 2) else { return };
        let limit = ffi::sqlite3_limit(ffi::sqlite3_context_db_handle(context), ffi::SQLITE_LIMIT_LENGTH, -1);
        match replaced(text.bytes, pattern.bytes, with.bytes, usize::try_from(limit).unwrap_or(0)) {
            Some(text) => answer(context, &text),
            None => ffi::sqlite3_result_error_toobig(context),
        }
    }
}

unsafe extern "C" fn trim(context: *mut ffi::sqlite3_context, _: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: as they are given.
    unsafe { trim_ends(context, values, true, true) }
}

unsafe extern "C" fn ltrim(context: *mut ffi::sqlite3_context, _: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: as they are given.
    unsafe { trim_ends(context, values, true, false) }
}

unsafe extern "C" fn rtrim(context: *mut ffi::sqlite3_context, _: c_int, values: *mut *mut ffi::sqlite3_value) {
    // SAFETY: as they are given.
    unsafe { trim_ends(context, values, false, true) }
}

/// # Safety
/// A call by SQLite with two arguments.
unsafe fn trim_ends(context: *mut ffi::sqlite3_context, values: *mut *mut ffi::sqlite3_value, left: bool, right: bool) {
    // SAFETY: the caller's.
    unsafe {
        let Some(text) = argument(context, values, 0) else { return };
        let Some(letters) = argument(context, values, 1) else { return };
        answer(context, trimmed(text.bytes, letters.bytes, left, right));
    }
}

/// Whether the byte belongs to the letter before it.
fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Where the needle is: from 1, in letters or bytes; 0 where it is not. The empty one is at the start.
fn position(haystack: &[u8], needle: &[u8], letters: bool) -> usize {
    if letters && needle.first().is_some_and(|byte| continues(*byte)) {
        // A letter begins at the first byte, and at none of this kind after it.
        return usize::from(haystack.starts_with(needle));
    }
    let Some(at) = memmem::find(haystack, needle) else { return 0 };
    if !letters {
        return at + 1;
    }
    1 + haystack.iter().take(at + 1).skip(1).filter(|byte| !continues(**byte)).count()
}

/// `None` when it would be longer than `max_bytes`. The pattern is not empty.
fn replaced(text: &[u8], pattern: &[u8], with: &[u8], max_bytes: usize) -> Option<Vec<u8>> {
    let finder = memmem::Finder::new(pattern);
    let found = finder.find_iter(text).count();
    let bytes = text.len() - found * pattern.len() + found.checked_mul(with.len())?;
    if bytes > max_bytes {
        return None;
    }
    let mut out = Vec::with_capacity(bytes);
    let mut rest = 0;
    for at in finder.find_iter(text) {
        out.extend_from_slice(text.get(rest..at)?);
        out.extend_from_slice(with);
        rest = at + pattern.len();
    }
    out.extend_from_slice(text.get(rest..)?);
    Some(out)
}

/// The text without those of the letters that it begins or ends with.
fn trimmed<'a>(mut text: &'a [u8], letters: &[u8], left: bool, right: bool) -> &'a [u8] {
    let set = letters_of(letters);
    // No letter of UTF-8 has more bytes.
    let lengths = || 1..=4_usize;
    if left {
        while let Some(rest) = lengths().find_map(|length| {
            let (start, rest) = text.split_at_checked(length)?;
            set.contains(start).then_some(rest)
        }) {
            text = rest;
        }
    }
    if right {
        while let Some(rest) = lengths().find_map(|length| {
            let (rest, end) = text.split_at_checked(text.len().checked_sub(length)?)?;
            set.contains(end).then_some(rest)
        }) {
            text = rest;
        }
    }
    text
}

/// The letters of a text up to its first zero, as SQLite divides it.
fn letters_of(text: &[u8]) -> HashSet<&[u8]> {
    let mut rest = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut letters = HashSet::new();
    while let Some(first) = rest.first() {
        let more = if *first >= 0xc0 { rest.iter().skip(1).take_while(|byte| continues(**byte)).count() } else { 0 };
        let (letter, after) = rest.split_at(1 + more);
        letters.insert(letter);
        rest = after;
    }
    letters
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rusqlite::types::Value;

    use super::*;

    /// Letters of one to four bytes, a zero, and bytes that are no UTF-8, in few kinds, so that they meet often.
    fn some_values() -> Vec<Value> {
        let pieces: [&[u8]; 9] =
            [b"a", b"b", "ä".as_bytes(), "€".as_bytes(), "🐟".as_bytes(), b"\0", b"\x80", b"\xc3", b"\xbc"];
        // An LCG of Knuth's; the same values in each run.
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((random >> 33) % below) as usize
        };
        let mut values = vec![Value::Null, Value::Integer(1), Value::Integer(-101), Value::Real(1.0), Value::Real(0.1)];
        for length in [0, 1, 1, 1, 2, 2, 3, 5, 8] {
            for kinds in [2, 6, 9] {
                let bytes: Vec<u8> = (0..length).flat_map(|_| pieces[next(kinds)].iter().copied()).collect();
                values.push(Value::Blob(bytes));
            }
        }
        values
    }

    #[test]
    fn the_answers_are_those_of_sqlite() {
        crate::sql::memory::install().unwrap();
        let (theirs, ours) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        register(&ours).unwrap();
        let values = some_values();
        for sql in [
            "instr(?1, ?2)",
            "instr(CAST(?1 AS TEXT), CAST(?2 AS TEXT))",
            "instr(?1, CAST(?2 AS TEXT))",
            "replace(?1, ?2, ?3)",
            "replace(CAST(?1 AS TEXT), CAST(?2 AS TEXT), CAST(?3 AS TEXT))",
            "trim(?1, ?2)",
            "trim(CAST(?1 AS TEXT), CAST(?2 AS TEXT))",
            "ltrim(?1, ?2)",
            "rtrim(CAST(?1 AS TEXT), CAST(?2 AS TEXT))",
            "trim(?1)",
        ] {
            // As a blob: what is no UTF-8 cannot be read as text.
            let query = format!("SELECT typeof({sql}), CAST({sql} AS BLOB)");
            let (mut theirs, mut ours) = (theirs.prepare(&query).unwrap(), ours.prepare(&query).unwrap());
            for text in &values {
                for part in &values {
                    for with in values.iter().step_by(if sql.contains("?3") { 3 } else { 100 }) {
                        let all = [text, part, with];
                        let params = || rusqlite::params_from_iter(all.into_iter().take(theirs_count(sql)));
                        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Value>(1)?));
                        let expected = theirs.query_row(params(), read).unwrap();
                        assert_eq!(ours.query_row(params(), read).unwrap(), expected, "{sql} of {all:?}");
                    }
                }
            }
        }
    }

    fn theirs_count(sql: &str) -> usize {
        (1..=3).filter(|number| sql.contains(&format!("?{number}"))).count()
    }

    #[test]
    fn large_texts_take_linear_time_and_bounded_memory() {
        crate::sql::memory::install().unwrap();
        let ours = Connection::open_in_memory().unwrap();
        register(&ours).unwrap();
        let begun = Instant::now();
        let text = "a".repeat(1 << 20);
        let half = format!("{}b", "a".repeat(1 << 19));
        let set: String = (0x1_0000..0x2_0000).filter_map(char::from_u32).collect();
        for (sql, answer) in [
            ("SELECT instr(?1, ?2)", 0),
            ("SELECT length(replace(?1, ?2, ''))", 1 << 20),
            ("SELECT length(trim(?1 || ?3, ?3 || 'a'))", 0),
        ] {
            let found: i64 =
                ours.query_row(&format!("{sql}, ?1, ?2, ?3"), [&text, &half, &set], |row| row.get(0)).unwrap();
            assert_eq!(found, answer, "{sql}");
        }
        let long = ours.query_row("SELECT replace(?1, 'a', ?1)", [&text], |row| row.get::<_, String>(0));
        assert_eq!(long.unwrap_err().sqlite_error_code(), Some(rusqlite::ErrorCode::TooBig));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
