use serde::Serialize;

use super::Error;

/// Returns `value` as YAML of which every reader understands the same: all texts are quoted, so that none of them is taken for a
/// boolean, a number, a time or a base-60 integer (as `52:54:00:12:34:56` is by YAML 1.1).
pub(super) fn to_string<T: Serialize>(what: &'static str, value: &T) -> Result<String, Error> {
    let options = serde_saphyr::ser_options! { quote_all: true };
    serde_saphyr::to_string_with_options(value, options).map_err(|error| Error::Yaml { what, source: error.into() })
}
