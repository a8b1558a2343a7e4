//! What a deployment file will say one day. Until then it is refused by name, at its place, and not taken for a slip
//! of the pen. An entry goes when its part comes.

use toml::de::DeTable;

use super::parse::Wrong;

const FIELDS: &[&str] = &["image", "port"];

/// Refuses the first of them that stands in the table of a deployment or of an environment.
pub fn refuse(table: &DeTable<'_>) -> Result<(), Wrong> {
    for (key, _) in table {
        let name: &str = key.get_ref();
        if FIELDS.contains(&name) {
            let reason = format!("'{name}' is not supported yet");
            return Err(Wrong::new(key.span(), reason));
        }
    }
    Ok(())
}
