//! The flags about a deployment's HTTP: a file with all of it, and what people set most often.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nebula_wire::api::{ErrorCode, Http, HttpRateLimit};
use nebula_wire::convert::{self, Passwords};

use super::{http_file, password};
use crate::error::{CliError, Exit, Outcome};

const OFF: &str = "off";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Default, Args)]
pub struct HttpFlags {
    /// File with names, rules, limits and the rest (TOML); the flags below override it
    #[arg(long = "http", value_name = "FILE", help_heading = "HTTP")]
    pub file: Option<PathBuf>,
    /// Answer under this name too, such as shop.test, '*.shop.test' or shop.test/eu; may be repeated
    #[arg(long = "name", value_name = "HOST", help_heading = "HTTP")]
    pub names: Vec<String>,
    /// Plain HTTP: redirected to https (on), answered alike (both), or all there is (off)
    #[arg(long, value_name = "on|off|both", num_args = 0..=1, require_equals = true, default_missing_value = "on",
        help_heading = "HTTP")]
    pub redirect_https: Option<String>,
    /// Requests of one client, such as '10r/s burst=20 nodelay', or off; may be repeated
    #[arg(long, value_name = "RATE", help_heading = "HTTP")]
    pub rate_limit: Vec<String>,
    /// Keep a client with one instance by a cookie: --sticky, --sticky='max_age=1h', --sticky=off
    #[arg(long, value_name = "COOKIE", num_args = 0..=1, require_equals = true, default_missing_value = "on",
        help_heading = "HTTP")]
    pub sticky: Option<String>,
    /// How an instance is chosen: power-of-two, round-robin, least-connections, 'hash address', 'hash header NAME'
    #[arg(long, value_name = "POLICY", help_heading = "HTTP")]
    pub balance: Option<String>,
    /// What the program speaks: http1, or h2c for HTTP/2 in the clear, as servers of gRPC do
    #[arg(long, value_name = "PROTOCOL", help_heading = "HTTP")]
    pub upstream: Option<String>,
    /// Largest request body, such as 20MiB, or unlimited
    #[arg(long, value_name = "SIZE", help_heading = "HTTP")]
    pub max_body: Option<String>,
    /// Answer everybody with a maintenance page
    #[arg(long, value_enum, help_heading = "HTTP")]
    pub maintenance: Option<Switch>,
    /// Keep answers that say that they may be kept, and give them without asking an instance
    #[arg(long, value_enum, help_heading = "HTTP")]
    pub cache: Option<Switch>,
    /// Ask for a password: USER (typed here), USER:FILE (its first line), USER:- (stdin); may be repeated
    #[arg(long, value_name = "USER[:FILE]", help_heading = "HTTP")]
    pub basic_auth: Vec<String>,
}

impl HttpFlags {
    pub fn is_empty(&self) -> bool {
        let HttpFlags {
            file,
            names,
            redirect_https,
            rate_limit,
            sticky,
            balance,
            upstream,
            max_body,
            maintenance,
            cache,
            basic_auth,
        } = self;
        file.is_none()
            && names.is_empty()
            && redirect_https.is_none()
            && rate_limit.is_empty()
            && sticky.is_none()
            && balance.is_none()
            && upstream.is_none()
            && max_body.is_none()
            && maintenance.is_none()
            && cache.is_none()
            && basic_auth.is_empty()
    }

    /// Reads the files that the flags name and asks for passwords; once for each command.
    pub fn read(&self) -> Outcome<HttpChange> {
        let file = self.file.as_deref().map(http_file::read).transpose()?;
        let user = |flag: &String| password::user(flag).map(|(name, line)| (name, Hidden(line)));
        let users = self.basic_auth.iter().map(user);
        Ok(HttpChange {
            file,
            users: users.collect::<Outcome<_>>()?,
            flags: self.clone(),
            unset_names: Vec::new(),
            unset_users: Vec::new(),
        })
    }
}

/// What is to change, with everything read.
#[derive(Debug, Clone, Default)]
pub struct HttpChange {
    /// Replaces the whole policy.
    file: Option<Http>,
    flags: HttpFlags,
    users: Vec<(String, Hidden)>,
    pub unset_names: Vec<String>,
    pub unset_users: Vec<String>,
}

/// A line with a password's hash.
#[derive(Clone)]
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(..)")
    }
}

impl HttpChange {
    /// Refuses what cannot be right whatever the deployment is.
    pub fn check(&self) -> Outcome {
        let bare = HttpChange {
            unset_names: Vec::new(),
            unset_users: Vec::new(),
            ..self.clone()
        };
        convert::policy(&bare.onto(Http::default())?, Passwords::Unseen)
            .map(|_| ())
            .map_err(|e| CliError::usage(e.to_string(), "correct the value and try again"))
    }

    /// The policy with what the flags say in place of what it says; the rest stays.
    pub fn onto(&self, current: Http) -> Outcome<Http> {
        let mut http = self.file.clone().unwrap_or(current);
        for name in &self.unset_names {
            take(&mut http.names, |known| known == name).ok_or_else(|| {
                unknown(format!("the deployment has no name '{name}' to give back"))
            })?;
        }
        for name in &self.flags.names {
            if !http.names.contains(name) {
                http.names.push(name.clone());
            }
        }
        let flags = &self.flags;
        http.https = flags.redirect_https.clone().or(http.https);
        http.sticky = flags.sticky.clone().or(http.sticky);
        http.balance = flags.balance.clone().or(http.balance);
        http.upstream = flags.upstream.clone().or(http.upstream);
        http.limits.body = flags.max_body.clone().or(http.limits.body);
        if let Some(maintenance) = flags.maintenance {
            http.maintenance.on = maintenance == Switch::On;
        }
        if let Some(cache) = flags.cache {
            http.cache.on = cache == Switch::On;
        }
        if !flags.rate_limit.is_empty() {
            http.rate_limits = rate_limits(&flags.rate_limit)?;
        }
        let users = &mut http.basic_auth.users;
        for name in &self.unset_users {
            take(users, |line| name_of(line) == name)
                .ok_or_else(|| unknown(format!("there is no user '{name}' to forget")))?;
        }
        for (name, line) in &self.users {
            match users.iter_mut().find(|known| name_of(known) == name) {
                Some(known) => known.clone_from(&line.0),
                None => users.push(line.0.clone()),
            }
        }
        Ok(http)
    }
}

fn name_of(line: &str) -> &str {
    line.split(':').next().unwrap_or_default()
}

fn take(list: &mut Vec<String>, which: impl Fn(&String) -> bool) -> Option<String> {
    let at = list.iter().position(which)?;
    Some(list.remove(at))
}

fn unknown(message: String) -> CliError {
    CliError::new(
        Exit::Failed,
        ErrorCode::NotFound,
        message,
        "see 'nebula deploy status NAME --json' for what is set",
    )
}

/// Limits for each client in place of all that there are; `off` alone leaves none.
fn rate_limits(texts: &[String]) -> Outcome<Vec<HttpRateLimit>> {
    if texts == [OFF] {
        return Ok(Vec::new());
    }
    if texts.iter().any(|text| text == OFF) {
        return Err(CliError::usage(
            "--rate-limit is off and on at once",
            "leave one of them out",
        ));
    }
    let limit = |text: &String| HttpRateLimit {
        limit: text.clone(),
        ..HttpRateLimit::default()
    };
    Ok(texts.iter().map(limit).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &HttpFlags) -> HttpChange {
        flags.read().unwrap()
    }

    fn current() -> Http {
        Http {
            names: vec!["a.test".into()],
            balance: Some("round-robin".into()),
            access_log: Some("json".into()),
            rate_limits: rate_limits(&["1r/s".into()]).unwrap(),
            basic_auth: nebula_wire::api::HttpBasicAuth {
                users: vec!["ann".into(), "bob".into()],
                ..Default::default()
            },
            ..Http::default()
        }
    }

    #[test]
    fn each_flag_changes_its_part_and_nothing_else() {
        assert!(HttpFlags::default().is_empty());
        let none = read(&HttpFlags::default());
        assert_eq!(none.onto(current()), Ok(current()));
        let flags = HttpFlags {
            names: vec!["b.test".into(), "a.test".into()],
            redirect_https: Some("both".into()),
            rate_limit: vec!["10r/s burst=20 nodelay".into(), "100r/m".into()],
            sticky: Some("on".into()),
            upstream: Some("h2c".into()),
            max_body: Some("5MiB".into()),
            maintenance: Some(Switch::On),
            cache: Some(Switch::On),
            ..HttpFlags::default()
        };
        assert!(!flags.is_empty());
        let change = read(&flags);
        assert!(change.check().is_ok());
        let mut expected = current();
        expected.names.push("b.test".into());
        expected.https = Some("both".into());
        expected.sticky = Some("on".into());
        expected.upstream = Some("h2c".into());
        expected.limits.body = Some("5MiB".into());
        expected.maintenance.on = true;
        expected.cache.on = true;
        expected.rate_limits = rate_limits(&flags.rate_limit).unwrap();
        assert_eq!(change.onto(current()), Ok(expected));
        let off = HttpFlags {
            rate_limit: vec!["off".into()],
            balance: Some("hash address".into()),
            maintenance: Some(Switch::Off),
            ..HttpFlags::default()
        };
        let after = read(&off).onto(current()).unwrap();
        assert!(after.rate_limits.is_empty() && !after.maintenance.on);
        assert_eq!(after.balance.as_deref(), Some("hash address"));
    }

    #[test]
    fn a_file_replaces_all_and_flags_override_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, password) = (dir.path().join("http.toml"), dir.path().join("password"));
        let text = "names = ['c.test']\nhttps = 'off'\n[basic_auth]\nusers = ['ann']";
        std::fs::write(&file, text).unwrap();
        std::fs::write(&password, "secret\n").unwrap();
        let change = read(&HttpFlags {
            file: Some(file),
            redirect_https: Some("on".into()),
            basic_auth: vec![
                format!("ann:{}", password.display()),
                format!("eve:{}", password.display()),
            ],
            ..HttpFlags::default()
        });
        assert!(!format!("{change:?}").contains("$2"));
        let http = change.onto(current()).unwrap();
        assert_eq!(http.names, ["c.test"]);
        assert_eq!(http.https.as_deref(), Some("on"));
        assert_eq!(http.access_log, None);
        let users: Vec<&str> = http
            .basic_auth
            .users
            .iter()
            .map(|line| name_of(line))
            .collect();
        assert_eq!(users, ["ann", "eve"]);
        assert!(!http.keeps_passwords(), "both were given");
    }

    #[test]
    fn names_and_users_are_given_up_by_name() {
        let change = HttpChange {
            unset_names: vec!["a.test".into()],
            unset_users: vec!["bob".into()],
            ..HttpChange::default()
        };
        assert!(change.check().is_ok());
        let http = change.onto(current()).unwrap();
        assert!(http.names.is_empty());
        assert_eq!(http.basic_auth.users, ["ann"]);
        let error = change.onto(Http::default()).unwrap_err();
        assert_eq!(error.exit, Exit::Failed);
        assert!(error.to_string().contains("'a.test'"), "{error}");
    }

    #[test]
    fn what_cannot_be_right_is_refused_before_anything_is_sent() {
        let none = HttpFlags::default;
        let bad = [
            (
                HttpFlags {
                    names: vec!["A.test".into()],
                    ..none()
                },
                "'a.test'",
            ),
            (
                HttpFlags {
                    redirect_https: Some("yes".into()),
                    ..none()
                },
                "'on' or 'both'",
            ),
            (
                HttpFlags {
                    rate_limit: vec!["10/s".into()],
                    ..none()
                },
                "10r/s",
            ),
            (
                HttpFlags {
                    rate_limit: vec!["off".into(), "1r/s".into()],
                    ..none()
                },
                "at once",
            ),
            (
                HttpFlags {
                    balance: Some("roundrobin".into()),
                    ..none()
                },
                "'round-robin'",
            ),
            (
                HttpFlags {
                    upstream: Some("h2".into()),
                    ..none()
                },
                "'h2c'",
            ),
            (
                HttpFlags {
                    max_body: Some("10MB".into()),
                    ..none()
                },
                "'10MiB'",
            ),
            (
                HttpFlags {
                    sticky: Some("coookie=x".into()),
                    ..none()
                },
                "'cookie'",
            ),
        ];
        for (flags, word) in bad {
            let error = read(&flags).check().expect_err(word);
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
