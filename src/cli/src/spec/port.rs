//! The flag about the port on which a program listens.

use std::str::FromStr;

use nebula_domain::port::FixedPort;

use super::release::NONE;

/// `8080`, or `none` for the port that the node gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortFlag(pub Option<u32>);

impl FromStr for PortFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<PortFlag, String> {
        if text == NONE {
            return Ok(PortFlag(None));
        }
        let number: u32 = text
            .parse()
            .map_err(|_| "write a number such as 8080, or none".to_owned())?;
        let port = FixedPort::try_from(number).map_err(|e| e.to_string())?;
        Ok(PortFlag(Some(port.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_legal_number_or_none() {
        assert_eq!("8080".parse(), Ok(PortFlag(Some(8080))));
        assert_eq!("none".parse(), Ok(PortFlag(None)));
        for (bad, why) in [
            ("http", "a number"),
            ("-1", "a number"),
            ("80", "from 1024 to 65535"),
            ("70000", "from 1024 to 65535"),
            ("20000", "to programs by themselves"),
        ] {
            let error = bad.parse::<PortFlag>().unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
