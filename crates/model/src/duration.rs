//! Durations in JSON: whole numbers with the unit in the field's name (`cpu_ms`, `wall_us`).

macro_rules! unit {
    ($unit:ident, $doc:literal, $as:ident, $from:ident) => {
        #[doc = $doc]
        pub(crate) mod $unit {
            use std::time::Duration;

            use serde::{Deserialize, Deserializer, Serializer};

            pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(u64::try_from(duration.$as()).unwrap_or(u64::MAX))
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
                u64::deserialize(deserializer).map(Duration::$from)
            }
        }
    };
}

unit!(millis, "Milliseconds.", as_millis, from_millis);
unit!(micros, "Microseconds.", as_micros, from_micros);
