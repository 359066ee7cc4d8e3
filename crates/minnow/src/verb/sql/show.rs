//! What a statement answered, for people.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use minnow_control::api_types::{SqlResult, SqlValue};

use crate::output::{self, DIM};

/// How much of a blob is shown, in bytes: enough to tell what kind of file it is.
const SHOWN_BLOB: usize = 16;

/// Prints the rows as a table, or what was changed.
pub(super) fn result(result: &SqlResult) -> anyhow::Result<()> {
    if result.columns.is_empty() {
        let rows = if result.changes == 1 { "row" } else { "rows" };
        return output::line(format_args!("{DIM}{} {rows} changed{DIM:#}", result.changes));
    }
    let mut table = output::table(&[]);
    // As they are named: SQL's names may differ in case alone.
    table.set_header(result.columns.iter().map(|column| output::printable(column)));
    for row in &result.rows {
        table.add_row(row.iter().map(value));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    output::print_table(table)?;
    let rows = if result.rows.len() == 1 { "row" } else { "rows" };
    output::line(format_args!("{DIM}{} {rows}{DIM:#}", result.rows.len()))
}

fn value(value: &SqlValue) -> String {
    match value {
        SqlValue::Null => "NULL".into(),
        SqlValue::Bool(bool) => u8::from(*bool).to_string(),
        SqlValue::Integer(integer) => integer.to_string(),
        SqlValue::Real(real) => format!("{real:?}"),
        SqlValue::Text(text) => output::printable(text),
        SqlValue::Blob(blob) => {
            let bytes = BASE64.decode(&blob.base64).unwrap_or_default();
            let shown: String = bytes.iter().take(SHOWN_BLOB).map(|byte| format!("{byte:02x}")).collect();
            let more = if bytes.len() > SHOWN_BLOB { format!("… ({} bytes)", bytes.len()) } else { String::new() };
            format!("x'{shown}'{more}")
        }
        SqlValue::Infinite(infinite) => infinite.real.clone(),
    }
}

#[cfg(test)]
mod tests {
    use minnow_control::api_types::SqlBlob;

    use super::*;

    #[test]
    fn values_are_written_as_sql_writes_them() {
        let blob = |bytes: &[u8]| SqlValue::Blob(SqlBlob { base64: BASE64.encode(bytes) });
        for (given, expected) in [
            (SqlValue::Null, "NULL"),
            (SqlValue::Integer(-5), "-5"),
            (SqlValue::Real(1.0), "1.0"),
            (SqlValue::Text("a\nb\u{1b}".into()), "a\\nb\\u{1b}"),
            (blob(&[0, 255]), "x'00ff'"),
            (blob(&[1; 17]), "x'01010101010101010101010101010101'… (17 bytes)"),
        ] {
            assert_eq!(value(&given), expected);
        }
    }
}
