//! Databases: `/sql/STORE/…`. Statements and rows have the JSON of the control API.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{Method, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use minnow_model::{Code, StoreKind};
use minnow_store::sql::{Access, MAX_BATCH, MAX_PARAMS, Rows, Statement, Value};
use serde::{
    Deserialize, Serialize,
    de::{self, MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::RawValue;

use super::{
    Base64, Bounded, Flags, LocalHttp,
    answer::{self, Body, Refusal},
    only, parsed, query,
};
use crate::data::Need;

/// The longest body with statements, in bytes: a value of 4 MiB is up to twice that in JSON.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Parameters of all statements of a batch together. Each takes 32 bytes beside its text, so this is 3 MiB.
const MAX_ALL_PARAMS: usize = 100_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query<'a> {
    sql: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    statements: Bounded<BatchStatement<'a>, MAX_BATCH>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchStatement<'a> {
    sql: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Results<'a> {
    results: Vec<Answer<'a>>,
}

#[derive(Serialize)]
struct Answer<'a> {
    columns: &'a [String],
    rows: Vec<Row<'a>>,
    changes: u64,
    last_insert_rowid: i64,
}

struct Row<'a>(&'a [Value]);

impl LocalHttp {
    pub(super) async fn sql_query(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        store: &str,
    ) -> Result<Response<Body>, Refusal> {
        only(&head.method, &Method::POST, "POST")?;
        query(head, |_, _| Ok(false))?;
        let store = self.store(StoreKind::Sql, store, Need::Read)?;
        let (bytes, _room) = answer::whole_body(body, MAX_BODY_BYTES, &self.memory, flags).await?;
        // What is read from it is not longer than it.
        let _parsed = self.memory.expect(bytes.len())?;
        let Query { sql, params, read_only } = parsed(&bytes)?;
        let statement = Statement { sql, params: params_of(params)? };
        let room = self.memory.expect(self.data().sql.limits().result_bytes)?;
        let access = access(store.read_only || read_only);
        let rows = self.data().sql.run(&store.store, access, statement).await?;
        answer::json(StatusCode::OK, &Answer::of(&rows), &self.memory, Some(room))
    }

    pub(super) async fn sql_batch(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        store: &str,
    ) -> Result<Response<Body>, Refusal> {
        only(&head.method, &Method::POST, "POST")?;
        query(head, |_, _| Ok(false))?;
        let store = self.store(StoreKind::Sql, store, Need::Read)?;
        let (bytes, _room) = answer::whole_body(body, MAX_BODY_BYTES, &self.memory, flags).await?;
        let _parsed = self.memory.expect(bytes.len())?;
        let Batch { statements, read_only } = parsed(&bytes)?;
        let mut left = MAX_ALL_PARAMS;
        let statements = statements.0.into_iter().map(|BatchStatement { sql, params }| {
            let params = params_of(params)?;
            left = left.checked_sub(params.len()).ok_or_else(|| {
                Refusal::new(
                    Code::TooLarge,
                    format!("the batch has more than {MAX_ALL_PARAMS} parameters; use several"),
                )
            })?;
            Ok(Statement { sql, params })
        });
        let statements = statements.collect::<Result<_, Refusal>>()?;
        let room = self.memory.expect(self.data().sql.limits().result_bytes)?;
        let access = access(store.read_only || read_only);
        let results = self.data().sql.batch(&store.store, access, statements).await?;
        let results = Results { results: results.iter().map(Answer::of).collect() };
        answer::json(StatusCode::OK, &results, &self.memory, Some(room))
    }
}

fn access(read_only: bool) -> Access {
    if read_only { Access::ReadOnly } else { Access::ReadWrite }
}

fn params_of(params: Option<&RawValue>) -> Result<Vec<Value>, Refusal> {
    let Some(params) = params else { return Ok(Vec::new()) };
    let params: Bounded<Param, MAX_PARAMS> = serde_json::from_str(params.get())
        .map_err(|error| Refusal::invalid(format!("`params` cannot be read: {error}")))?;
    Ok(params.0.into_iter().map(|param| param.0).collect())
}

/// A parameter. Read straight from the text, so that what is none of these takes no memory.
struct Param(Value);

impl<'de> Deserialize<'de> for Param {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Param;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, a number, a text, {\"base64\": …} or {\"real\": \"inf\"}")
            }

            fn visit_unit<E>(self) -> Result<Param, E> {
                Ok(Param(Value::Null))
            }

            fn visit_bool<E>(self, bool: bool) -> Result<Param, E> {
                Ok(Param(Value::Integer(bool.into())))
            }

            fn visit_i64<E>(self, integer: i64) -> Result<Param, E> {
                Ok(Param(Value::Integer(integer)))
            }

            #[allow(clippy::cast_precision_loss, reason = "what does not fit into 64 bits is a real number of SQL")]
            fn visit_u64<E>(self, integer: u64) -> Result<Param, E> {
                Ok(Param(i64::try_from(integer).map_or(Value::Real(integer as f64), Value::Integer)))
            }

            fn visit_f64<E>(self, real: f64) -> Result<Param, E> {
                Ok(Param(Value::Real(real)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Param, E> {
                Ok(Param(Value::Text(text.into())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Param, A::Error> {
                use de::Error as _;
                let value = match map.next_key::<Cow<'_, str>>()?.as_deref() {
                    Some("base64") => {
                        let bytes = BASE64_STANDARD.decode(map.next_value::<String>()?);
                        Value::Blob(bytes.map_err(|error| A::Error::custom(format!("`base64`: {error}")))?)
                    }
                    Some("real") => match map.next_value::<String>()?.as_str() {
                        "inf" => Value::Real(f64::INFINITY),
                        "-inf" => Value::Real(f64::NEG_INFINITY),
                        _ => {
                            return Err(A::Error::custom("`real` is `inf` or `-inf`; write other numbers as they are"));
                        }
                    },
                    _ => return Err(A::Error::custom("an object has `base64` or `real`")),
                };
                match map.next_key::<Cow<'_, str>>()? {
                    None => Ok(Param(value)),
                    Some(_) => Err(A::Error::custom("an object has `base64` or `real`, and nothing else")),
                }
            }
        }

        deserializer.deserialize_any(Read)
    }
}

impl<'a> Answer<'a> {
    fn of(rows: &'a Rows) -> Self {
        Self {
            columns: &rows.columns,
            rows: rows.rows.iter().map(|row| Row(row)).collect(),
            changes: rows.changes,
            last_insert_rowid: rows.last_insert_rowid,
        }
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Cell))
    }
}

struct Cell<'a>(&'a Value);

impl Serialize for Cell<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Integer(integer) => serializer.serialize_i64(*integer),
            Value::Real(real) if real.is_infinite() => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("real", &real.to_string())?;
                map.end()
            }
            Value::Real(real) => serializer.serialize_f64(*real),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Blob(bytes) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &Base64(bytes))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(json: &str) -> Result<Vec<Value>, String> {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        params_of(Some(raw)).map_err(|refusal| refusal.problem.detail.unwrap())
    }

    #[test]
    fn parameters_and_rows_have_the_json_of_the_control_api() {
        let json = r#"[null,-5,1.5,"ä\n",{"base64":"AP8="},{"real":"-inf"},9223372036854775807]"#;
        let values = params(json).unwrap();
        assert_eq!(serde_json::to_string(&Row(&values)).unwrap(), json);
        assert_eq!(
            params("[true, 1e3, 18446744073709551615]").unwrap(),
            [Value::Integer(1), Value::Real(1000.0), Value::Real(18_446_744_073_709_551_615.0)]
        );
        for bad in [r#"[[1]]"#, r#"[{"real":"1"}]"#, r#"[{"base64":"?"}]"#, r#"[{"base64":"","a":1}]"#, "[{}]", "1"] {
            assert!(params(bad).is_err(), "{bad}");
        }
        let many = format!("[{}0]", "0,".repeat(MAX_PARAMS));
        assert!(params(&many).unwrap_err().contains("more than 10000"), "so many take no memory");
    }
}
