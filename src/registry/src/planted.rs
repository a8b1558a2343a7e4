//! Faults that tests put in on purpose, to see that they would be found. Without the feature
//! `planted-bugs` there is only [`Planted::Nothing`], and no optimised build has the feature.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("'planted-bugs' loses data on purpose: it is for debug builds of tests alone");

/// The fault that a registry has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Planted {
    #[default]
    Nothing,
    /// Appends and votes are confirmed before they are synced.
    #[cfg(feature = "planted-bugs")]
    ConfirmBeforeSync,
    /// Who believes to lead answers linearizable reads without asking a majority.
    #[cfg(feature = "planted-bugs")]
    StaleRead,
    /// The requests of one entry are applied in the order of a hash map.
    #[cfg(feature = "planted-bugs")]
    ApplyByMapOrder,
}

impl Planted {
    /// What `NEBULA_PLANTED_BUG` asks for; whoever has the fault looks once, when it starts.
    pub fn from_env() -> Planted {
        #[cfg(feature = "planted-bugs")]
        match std::env::var("NEBULA_PLANTED_BUG").as_deref() {
            Ok("confirm-before-sync") => return Planted::ConfirmBeforeSync,
            Ok("stale-read") => return Planted::StaleRead,
            Ok("apply-by-map-order") => return Planted::ApplyByMapOrder,
            Ok(other) => panic!("there is no planted bug '{other}'"),
            Err(_) => {}
        }
        Planted::Nothing
    }

    pub fn confirms_before_sync(self) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self == Planted::ConfirmBeforeSync;
        #[cfg(not(feature = "planted-bugs"))]
        false
    }

    pub fn reads_stale(self) -> bool {
        #[cfg(feature = "planted-bugs")]
        return self == Planted::StaleRead;
        #[cfg(not(feature = "planted-bugs"))]
        false
    }

    /// The order in which the requests of one entry are applied.
    pub fn order(self, requests: usize) -> Vec<usize> {
        #[cfg(feature = "planted-bugs")]
        if self == Planted::ApplyByMapOrder {
            let set: std::collections::HashSet<usize> = (0..requests).collect();
            return set.into_iter().collect();
        }
        (0..requests).collect()
    }
}
