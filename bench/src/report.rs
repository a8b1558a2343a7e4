//! A table for people, and the same rows as JSON for later comparison.

use std::path::PathBuf;

use comfy_table::Table;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Prints rows under a heading and keeps them as `bench/results/<date>-<name>.json`.
pub fn publish(
    name: &str,
    header: &[&str],
    rows: &[Vec<String>],
    raw: &Value,
) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(header);
    rows.iter().for_each(|row| {
        table.add_row(row);
    });
    println!("\n{name}\n{table}");
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
    let kept = json!({ "name": name, "date": stamp, "cores": cores, "header": header, "rows": rows, "raw": raw });
    std::fs::write(&path, serde_json::to_string_pretty(&kept)? + "\n")?;
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
