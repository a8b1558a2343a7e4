//! What a program is given besides its own environment. A trait: it comes from parts of the node that the supervisor
//! does not know.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::{DeploymentName, InstanceId};

#[async_trait]
pub trait Supplies: Send + Sync + 'static {
    /// The port on 127.0.0.1 that leads to a deployment, from now on and for as long as an instance here depends on it.
    async fn port(&self, to: &DeploymentName) -> Result<u16, String>;

    /// The values of an instance's secrets, by the variables that they are given in; asked for when it has any.
    async fn secrets(&self, instance: InstanceId) -> Result<BTreeMap<String, String>, String>;
}

/// Secrets that are not here by then are asked for again with the next try to start the program. More than two voters
/// take that say nothing; while more are silent there is no quorum.
pub(crate) const SECRETS_WITHIN: Duration = Duration::from_secs(5);

/// [`Supplies::secrets`], for at most [`SECRETS_WITHIN`].
pub(crate) async fn secrets(
    supplies: &dyn Supplies,
    instance: InstanceId,
) -> Result<BTreeMap<String, String>, String> {
    let asked = tokio::time::timeout(SECRETS_WITHIN, supplies.secrets(instance));
    asked.await.unwrap_or_else(|_| {
        let seconds = SECRETS_WITHIN.as_secs();
        Err(format!(
            "no voter has given this node the secrets of the instance within {seconds} s"
        ))
    })
}

/// For nodes without such parts.
pub(crate) struct Nothing;

#[async_trait]
impl Supplies for Nothing {
    async fn port(&self, to: &DeploymentName) -> Result<u16, String> {
        Err(format!("this node has no way to '{to}'"))
    }

    async fn secrets(&self, _: InstanceId) -> Result<BTreeMap<String, String>, String> {
        Err("this node has no secrets".to_owned())
    }
}

/// `NEBULA_DB_HOST`, `_PORT` and `_URL` for `db`.
pub(crate) fn address(to: &DeploymentName, port: u16) -> [(String, String); 3] {
    let name = to.as_str().to_ascii_uppercase().replace('-', "_");
    [
        (format!("NEBULA_{name}_HOST"), "127.0.0.1".to_owned()),
        (format!("NEBULA_{name}_PORT"), port.to_string()),
        (
            format!("NEBULA_{name}_URL"),
            format!("http://127.0.0.1:{port}"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    #[async_trait]
    impl Supplies for Silent {
        async fn port(&self, _: &DeploymentName) -> Result<u16, String> {
            std::future::pending().await
        }

        async fn secrets(&self, _: InstanceId) -> Result<BTreeMap<String, String>, String> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn secrets_that_nobody_gives_are_not_waited_for_for_ever() {
        let begun = tokio::time::Instant::now();
        let why = secrets(&Silent, InstanceId(1)).await.unwrap_err();
        assert_eq!(begun.elapsed(), SECRETS_WITHIN);
        assert!(why.ends_with("within 5 s"), "{why}");
    }

    #[test]
    fn an_address_is_told_by_three_variables() {
        let told = address(&"main-db".parse().unwrap(), 30_007);
        let told = told.map(|(name, value)| format!("{name}={value}"));
        assert_eq!(
            told,
            [
                "NEBULA_MAIN_DB_HOST=127.0.0.1",
                "NEBULA_MAIN_DB_PORT=30007",
                "NEBULA_MAIN_DB_URL=http://127.0.0.1:30007"
            ]
        );
    }
}
