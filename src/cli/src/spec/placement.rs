//! The flags about where instances may be, and had better be.

use clap::Args;
use nebula_wire::api::Placement;

use super::release::NONE;

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct PlacementFlags {
    /// Only on nodes with this label: disk=ssd, zone!=eu, gpu or !gpu; may be repeated; none for any node
    #[arg(long, value_name = "RULE", help_heading = "Placement")]
    require: Vec<String>,
    /// First on nodes with this label, while they have room; may be repeated; none takes it away
    #[arg(long, value_name = "RULE", help_heading = "Placement")]
    prefer: Vec<String>,
    /// Last on nodes with this label; may be repeated; none takes it away
    #[arg(long, value_name = "RULE", help_heading = "Placement")]
    avoid: Vec<String>,
    /// Evenly over the values of this label, such as zone, before evenly over nodes; none for nodes alone
    #[arg(long, value_name = "LABEL", help_heading = "Placement")]
    spread: Option<String>,
    /// Never on a node with an instance of this deployment; may be repeated; none takes it away
    #[arg(long, value_name = "NAME", help_heading = "Placement")]
    apart_from: Vec<String>,
    /// Better on a node with an instance of this deployment; may be repeated; none takes it away
    #[arg(long, value_name = "NAME", help_heading = "Placement")]
    near: Vec<String>,
}

impl PlacementFlags {
    /// Which are given.
    pub fn given(&self) -> Vec<(bool, &'static str)> {
        let PlacementFlags {
            require,
            prefer,
            avoid,
            spread,
            apart_from,
            near,
        } = self;
        vec![
            (!require.is_empty(), "--require"),
            (!prefer.is_empty(), "--prefer"),
            (!avoid.is_empty(), "--avoid"),
            (spread.is_some(), "--spread"),
            (!apart_from.is_empty(), "--apart-from"),
            (!near.is_empty(), "--near"),
        ]
    }

    /// What a flag says, all of its repetitions together, replaces what is there.
    pub fn onto(&self, known: &mut Placement) {
        for (flags, known) in [
            (&self.require, &mut known.require),
            (&self.prefer, &mut known.prefer),
            (&self.avoid, &mut known.avoid),
            (&self.apart_from, &mut known.apart_from),
            (&self.near, &mut known.near),
        ] {
            if !flags.is_empty() {
                let given = flags.iter().filter(|flag| *flag != NONE);
                *known = given.cloned().collect();
            }
        }
        match self.spread.as_deref() {
            None => {}
            Some(NONE) => known.spread = None,
            Some(label) => known.spread = Some(label.to_owned()),
        }
    }
}
