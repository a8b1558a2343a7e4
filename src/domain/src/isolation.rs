//! What one instance may reach: how much of the machine is hidden from it, and its network. Pure values; the
//! driver of the node carries them out (`docs/isolation.md`).

use serde::{Deserialize, Serialize};

use crate::http::error::words;

/// A deployment's wish. A node's own setting may refuse it, and says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    pub profile: Profile,
    pub network: Network,
}

/// How much is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// Everything that the node can give. As root that is everything there is, or the instance does not start; a
    /// daemon of a normal user (development) gives what it can and states what is missing.
    #[default]
    Default,
    /// Everything there is, or the instance does not start; also under a normal user.
    Strict,
    /// Nothing but the limits: for programs that manage the machine itself. They run as the daemon's own user, and
    /// a node whose setting is `required` refuses them.
    None,
}

/// The network that the program sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The machine's: a service has to be reached on its port.
    #[default]
    Host,
    /// Only a loopback of its own: for programs that calculate and answer nobody.
    None,
}

words!(Profile, "an isolation profile", {
    "default" => Default,
    "strict" => Strict,
    "none" => None,
});

words!(Network, "a network", {
    "host" => Host,
    "none" => None,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_near_ones_are_suggested() {
        for (word, profile) in Profile::WORDS {
            assert_eq!(word.parse(), Ok(*profile));
            assert_eq!(profile.to_string(), *word);
        }
        assert_eq!("none".parse(), Ok(Network::None));
        let error = "strickt".parse::<Profile>().unwrap_err().to_string();
        assert_eq!(
            error,
            "'strickt' is not an isolation profile: did you mean 'strict'?"
        );
    }
}
