//! The backend of SQLite files.

use super::{contract::contract_tests, *};

contract_tests!(embedded_topics());
