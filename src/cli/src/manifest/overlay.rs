//! Environments: what `[environments.NAME]` says in place of what the file says.
//!
//! Tables are laid over each other field by field, everything else is replaced; so are probes
//! and strategy when the overlay gives them a `type`, because the fields of one type mean nothing to another.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::parse::Wrong;
use crate::toml_text::entry;

const ENVIRONMENTS: &str = "environments";
const NAMES: &str = "names";
const HTTP: &str = "http";

/// More are no stages of one deployment, but a generator's mistake.
const ENVIRONMENTS_MAX: usize = 32;

/// The file in one environment, or as it stands outside all of them.
pub struct Laid<'i> {
    pub table: DeTable<'i>,
    /// Whether the environment itself says what the deployment is called.
    pub named: bool,
}

/// Takes the environments out of the file and lays the chosen one over it. Each is handed to `check` first, so that a
/// slip in one does not wait until it is used.
pub fn lay<'i>(
    mut table: DeTable<'i>,
    chosen: Option<&str>,
    check: impl Fn(&DeTable<'i>) -> Result<(), Wrong>,
) -> Result<Laid<'i>, Wrong> {
    let all = table.remove_entry(ENVIRONMENTS);
    let mut overlay = None;
    if let Some((key, value)) = all {
        let span = value.span();
        let DeValue::Table(environments) = value.into_inner() else {
            return Err(Wrong::new(
                span,
                "environments are tables: write [environments.staging]",
            ));
        };
        if environments.len() > ENVIRONMENTS_MAX {
            let reason = format!(
                "there are {} environments, over the limit of {ENVIRONMENTS_MAX}",
                environments.len()
            );
            return Err(Wrong::new(key.span(), reason));
        }
        for (name, value) in environments {
            let span = value.span();
            let DeValue::Table(environment) = value.into_inner() else {
                let reason = format!(
                    "an environment is a table: write [environments.{}]",
                    name.get_ref()
                );
                return Err(Wrong::new(span, reason));
            };
            if let Some((key, _)) = entry(&environment, ENVIRONMENTS) {
                return Err(Wrong::new(
                    key.span(),
                    "an environment has no environments of its own",
                ));
            }
            check(&environment)?;
            if chosen == Some(&**name.get_ref()) {
                overlay = Some(environment);
            }
        }
    }
    match (overlay, chosen) {
        (Some(overlay), _) => {
            let named = entry(&overlay, "name").is_some();
            forget_names(&mut table);
            lay_over(&mut table, overlay);
            Ok(Laid { table, named })
        }
        (None, Some(name)) => Err(Wrong::nowhere(format!(
            "there is no environment '{name}' in the file: add [environments.{name}]"
        ))),
        (None, None) => Ok(Laid {
            table,
            named: false,
        }),
    }
}

/// A name belongs to one deployment, and an environment is another one.
fn forget_names(table: &mut DeTable<'_>) {
    table.remove(NAMES);
    let http = table.get_mut(HTTP).map(Spanned::get_mut);
    if let Some(DeValue::Table(http)) = http {
        http.remove(NAMES);
    }
}

/// Tables whose `type` says what their other fields mean.
const TYPED: &[&str] = &["liveness", "probe", "startup", "strategy"];

fn lay_over<'i>(below: &mut DeTable<'i>, above: DeTable<'i>) {
    for typed in TYPED {
        let overlay = entry(&above, typed).and_then(|(_, value)| value.get_ref().as_table());
        if overlay.is_some_and(|table| entry(table, "type").is_some()) {
            below.remove(*typed);
        }
    }
    merge(below, above);
}

fn merge<'i>(below: &mut DeTable<'i>, above: DeTable<'i>) {
    for (key, value) in above {
        let span = value.span();
        let value = match (below.get_mut::<str>(key.get_ref()), value.into_inner()) {
            (Some(known), DeValue::Table(above)) => match known.get_mut() {
                DeValue::Table(below) => {
                    merge(below, above);
                    continue;
                }
                _ => DeValue::Table(above),
            },
            (_, value) => value,
        };
        below.insert(key, Spanned::new(span, value));
    }
}
