//! A request is applied once, however often it is asked: each restart of a deployment makes one new
//! generation, so that their number tells.

use std::collections::BTreeSet;

#[derive(Default)]
pub struct Once {
    acknowledged: BTreeSet<u64>,
    unknown: u64,
}

impl Once {
    /// A restart was acknowledged with this generation; an error if another was told the same.
    pub fn acknowledged(&mut self, generation: u64) -> Result<(), String> {
        if self.acknowledged.insert(generation) {
            Ok(())
        } else {
            Err(format!("two requests were told generation {generation}"))
        }
    }

    pub fn unknown(&mut self) {
        self.unknown += 1;
    }

    /// The deployment began with generation 1.
    pub fn violation(&self, generation: u64) -> Option<String> {
        let least = self.acknowledged.len() as u64;
        let made = generation.saturating_sub(1);
        let fits = (least..=least + self.unknown).contains(&made);
        (!fits).then(|| {
            format!(
                "{made} restarts were applied, {least} acknowledged and {} unknown",
                self.unknown
            )
        })
    }
}
