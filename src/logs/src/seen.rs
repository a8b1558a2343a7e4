//! Which lines a follower has, so that none is told twice when a node returns, or when a copy of its lines
//! takes its place.
//!
//! All lines of one instance come in the order in which they were written, wherever they lie. So its latest
//! time, and how many lines had it, say what was seen. A line whose clock was set back before that is
//! left out then.

use std::collections::BTreeMap;

use nebula_domain::{InstanceId, NodeId};

use crate::placed::Placed;

type Latest = BTreeMap<(NodeId, InstanceId), (String, usize)>;

#[derive(Debug, Default)]
pub(crate) struct Seen {
    latest: Latest,
}

/// What is left out of lines that are sent again.
#[derive(Debug, Default)]
pub(crate) struct Skip {
    latest: Latest,
}

impl Seen {
    pub(crate) fn note(&mut self, placed: &Placed) {
        let time = &placed.line.time;
        let key = (placed.node, placed.line.instance);
        let latest = self.latest.entry(key).or_default();
        match time.cmp(&latest.0) {
            std::cmp::Ordering::Greater => *latest = (time.clone(), 1),
            std::cmp::Ordering::Equal => latest.1 += 1,
            std::cmp::Ordering::Less => {}
        }
    }

    /// For lines of this node that come once more.
    pub(crate) fn skip(&self, node: NodeId) -> Skip {
        let of_node = self.latest.iter().filter(|((of, _), _)| *of == node);
        Skip {
            latest: of_node
                .map(|(key, latest)| (*key, latest.clone()))
                .collect(),
        }
    }
}

impl Skip {
    pub(crate) fn admits(&mut self, placed: &Placed) -> bool {
        let key = (placed.node, placed.line.instance);
        let Some((time, left)) = self.latest.get_mut(&key) else {
            return true;
        };
        if placed.line.time < *time {
            return false;
        }
        if placed.line.time == *time && *left > 0 {
            *left -= 1;
            return false;
        }
        self.latest.remove(&key);
        true
    }
}

/// The lines of several copies of the same output, each of which may lack some: every line as often as
/// the copy has it that has it most often.
#[derive(Default)]
pub(crate) struct United {
    lines: Vec<Placed>,
    have: BTreeMap<Key, usize>,
}

type Key = (NodeId, InstanceId, String, &'static str, String);

impl United {
    /// Adds what one copy has.
    pub(crate) fn add(&mut self, copy: Vec<Placed>) {
        let mut of_copy: BTreeMap<Key, usize> = BTreeMap::new();
        for placed in copy {
            let line = &placed.line;
            let (time, text) = (line.time.clone(), line.text.clone());
            let key = (placed.node, line.instance, time, line.source.as_str(), text);
            let met = of_copy.entry(key.clone()).or_default();
            *met += 1;
            let known = self.have.entry(key).or_default();
            if *met > *known {
                *known = *met;
                self.lines.push(placed);
            }
        }
    }

    /// In the order of time.
    pub(crate) fn into_lines(mut self) -> Vec<Placed> {
        self.lines.sort_by(|a, b| a.line.time.cmp(&b.line.time));
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::ReleaseNumber;
    use nebula_wire::peer::logs::{Line, Source};
    use proptest::prelude::*;

    use super::*;

    fn placed(instance: u64, time: u32, text: &str) -> Placed {
        Placed {
            node: NodeId(1),
            name: None,
            line: Line {
                time: format!("{time:08}"),
                instance: InstanceId(instance),
                release: ReleaseNumber(1),
                source: Source::Stdout,
                text: text.to_owned(),
            },
        }
    }

    /// Lines of two instances in the order of time, often several of one time.
    fn output() -> impl Strategy<Value = Vec<Placed>> {
        prop::collection::vec((0u64..2, 0u32..3), 0..60).prop_map(|steps| {
            let mut time = 0;
            let lines = steps.into_iter().map(|(instance, step)| {
                time += step;
                placed(instance, time, &format!("t{}", time % 2))
            });
            lines.collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_again_from_earlier_on_is_told_once(
            output in output(), cut in 0usize..60, back in 0usize..60,
        ) {
            let cut = cut.min(output.len());
            let mut seen = Seen::default();
            output[..cut].iter().for_each(|placed| seen.note(placed));
            // Sent again by whole times, as a node is asked from a time on.
            let from = output.get(cut.saturating_sub(back)).map(|placed| placed.line.time.clone());
            let mut skip = seen.skip(NodeId(1));
            let again = output.iter().filter(|placed| Some(&placed.line.time) >= from.as_ref());
            let told: Vec<_> = again.filter(|placed| skip.admits(placed)).cloned().collect();
            let mut all = output[..cut].to_vec();
            all.extend(told);
            let of = |lines: &[Placed], instance| -> Vec<Placed> {
                let lines = lines.iter().filter(|p| p.line.instance == InstanceId(instance));
                lines.cloned().collect()
            };
            for instance in 0..2 {
                prop_assert_eq!(of(&all, instance), of(&output, instance));
            }
        }

        #[test]
        fn parts_of_one_output_are_united_to_it(
            output in output(), cuts in prop::collection::vec((0usize..60, 0usize..60), 1..4),
        ) {
            let mut parts: Vec<_> = cuts
                .into_iter()
                .map(|(a, b)| {
                    let (a, b) = (a.min(output.len()), b.min(output.len()));
                    output[a.min(b)..a.max(b)].to_vec()
                })
                .collect();
            parts.push(output.clone());
            let mut united = parts.into_iter().fold(United::default(), |mut united, part| {
                united.add(part);
                united
            }).into_lines();
            let mut expected = output;
            let order = |p: &Placed| (p.line.time.clone(), p.line.instance, p.line.text.clone());
            united.sort_by_key(order);
            expected.sort_by_key(order);
            prop_assert_eq!(united, expected);
        }
    }
}
