//! What a deployment file will say one day. Until then it is refused by name, at its place, and not taken for a slip
//! of the pen. An entry goes when its part comes.

use toml::de::DeTable;

use super::parse::Wrong;
use crate::toml_text::entry;

const FIELDS: &[&str] = &["depends_on", "hooks", "image", "port", "secrets", "volumes"];

const TYPES: &[&str] = &["cron", "job", "worker"];

/// Refuses the first of them that stands in the table of a deployment or of an environment.
pub fn refuse(table: &DeTable<'_>) -> Result<(), Wrong> {
    for (key, _) in table {
        let name: &str = key.get_ref();
        if FIELDS.contains(&name) {
            let reason = format!("'{name}' is not supported yet");
            return Err(Wrong::new(key.span(), reason));
        }
    }
    let kind = entry(table, "type").map(|(_, value)| value);
    let named = kind.and_then(|value| Some((value.span(), value.get_ref().as_str()?)));
    match named {
        Some((span, kind)) if TYPES.contains(&kind) => Err(Wrong::new(
            span,
            format!("deployments of type '{kind}' are not supported yet"),
        )),
        _ => Ok(()),
    }
}
