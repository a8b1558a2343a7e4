//! A table for people, and the same rows as JSON for later comparison.

use std::path::PathBuf;

use serde_json::{Value, json};
use time::OffsetDateTime;

/// What a measurement has to say, for people.
pub struct Table {
    pub name: &'static str,
    pub header: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

/// Prints rows under a heading and keeps them as `bench/results/<date>-<name>.json`.
pub fn publish(
    name: &str,
    header: &[&str],
    rows: &[Vec<String>],
    raw: &Value,
) -> anyhow::Result<()> {
    print(name, header, rows);
    keep(name, json!({ "header": header, "rows": rows, "raw": raw }))
}

/// The same for a measurement that takes several tables. One of a part of it is printed alone.
pub fn publish_all(name: &str, tables: &[Table], raw: &Value, whole: bool) -> anyhow::Result<()> {
    for table in tables {
        print(
            &format!("{name}: {}", table.name),
            table.header,
            &table.rows,
        );
    }
    if !whole {
        return Ok(());
    }
    let all = tables
        .iter()
        .map(|t| json!({ "name": t.name, "header": t.header, "rows": t.rows }));
    keep(
        name,
        json!({ "tables": all.collect::<Vec<_>>(), "raw": raw }),
    )
}

fn print(title: &str, header: &[&str], rows: &[Vec<String>]) {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(header);
    rows.iter().for_each(|row| {
        table.add_row(row);
    });
    println!("\n{title}\n{table}");
}

fn keep(name: &str, mut content: Value) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let stamp = format!(
        "{}-{:02}-{:02}",
        now.year(),
        u8::from(now.month()),
        now.day()
    );
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("results")
        .join(format!("{stamp}-{name}.json"));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    content["name"] = name.into();
    content["date"] = stamp.into();
    content["cores"] = cores.into();
    std::fs::write(&path, serde_json::to_string_pretty(&content)? + "\n")?;
    Ok(())
}

/// The value below which `share` of the sorted values lie.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(&values, 0.5)
}
