//! Passwords for a deployment (RFC 7617), kept as bcrypt hashes in the form of `htpasswd -B`.
//!
//! bcrypt, because people have such files and because its memory is small and its cost is in the hash: a
//! proxy that checks a password spends milliseconds, an attacker with the registry's file as many for each guess.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{HttpError, TextError, text_form, within};
use super::fields::FieldValue;
use super::limits::{USER_NAME_BYTES, USERS};
use crate::excerpt::excerpt;

/// bcrypt reads 72 bytes, the last of which ends the text; longer passwords would be cut in silence.
pub const PASSWORD_BYTES_MAX: usize = 71;
/// For new hashes: some 50 ms of one core (OWASP asks for at least 10).
pub const PASSWORD_COST: u32 = 10;
/// Hashes that others have made: over this, one guess holds a core for most of a second.
pub const PASSWORD_COST_MAX: u32 = 12;
/// What bcrypt itself begins with.
const PASSWORD_COST_MIN: u32 = 4;

/// A bcrypt hash. Never shown but where it is stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Hashes a password. The salt has to be random.
    pub fn new(password: &str, cost: u32, salt: [u8; 16]) -> Result<PasswordHash, TextError> {
        if password.is_empty() {
            return Err(TextError::new("the password is empty"));
        }
        if password.len() > PASSWORD_BYTES_MAX || password.contains('\0') {
            return Err(TextError(format!(
                "the password has {} bytes: use at most {PASSWORD_BYTES_MAX}, none of them NUL",
                password.len()
            )));
        }
        let hash = bcrypt::hash_with_salt(password, cost, salt)
            .map_err(|_| TextError(format!("{cost} is not a cost of bcrypt")))?;
        hash.format_for_version(bcrypt::Version::TwoY).parse()
    }

    /// Whether this is the password. It takes as long as the hash's cost says, so not for a thread that has others
    /// waiting; the comparison itself takes the same time whatever differs.
    pub fn accepts(&self, password: &str) -> bool {
        let legal = password.len() <= PASSWORD_BYTES_MAX && !password.contains('\0');
        // Hashed all the same, so that the time tells nothing.
        let tried = if legal { password } else { "" };
        let same = bcrypt::verify(tried, &self.0).unwrap_or(false);
        legal && same
    }

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PasswordHash {
    type Err = TextError;

    /// The error never repeats the text: it may be a password that was mistaken for a hash.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let bad = || {
            TextError::new(
                "the password's hash is not bcrypt's: make the line with 'htpasswd -nB USER', or use --basic-auth",
            )
        };
        let behind = ["$2y$", "$2b$", "$2a$"]
            .iter()
            .find_map(|version| text.strip_prefix(version))
            .ok_or_else(bad)?;
        let (cost, rest) = behind.split_once('$').ok_or_else(bad)?;
        if cost.len() != 2 || !is_salt_and_hash(rest) {
            return Err(bad());
        }
        let cost: u32 = cost.parse().map_err(|_| bad())?;
        if !(PASSWORD_COST_MIN..=PASSWORD_COST_MAX).contains(&cost) {
            return Err(TextError(format!(
                "the password's hash has a cost of {cost}: use {PASSWORD_COST_MIN} to {PASSWORD_COST_MAX}"
            )));
        }
        Ok(PasswordHash(text.to_owned()))
    }
}

/// 128 bits of salt and 184 of hash, six to a character. The last character of each has bits to spare, which must
/// be zero, or the password could never be right.
fn is_salt_and_hash(text: &str) -> bool {
    const ALPHABET: &[u8] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const SALT: usize = 22;
    const BOTH: usize = SALT + 31;
    let digit = |b: u8| ALPHABET.iter().position(|known| *known == b);
    let Some(digits) = text.bytes().map(digit).collect::<Option<Vec<_>>>() else {
        return false;
    };
    digits.len() == BOTH
        && digits[SALT - 1].is_multiple_of(16)
        && digits[BOTH - 1].is_multiple_of(4)
}

/// For the registry, which needs the text. Nothing else asks for it.
impl TryFrom<String> for PasswordHash {
    type Error = TextError;
    fn try_from(text: String) -> Result<Self, TextError> {
        text.parse()
    }
}

impl From<PasswordHash> for String {
    fn from(hash: PasswordHash) -> String {
        hash.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// A name before the colon: no colon in it, no control characters (RFC 7617 section 2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        USER_NAME_BYTES
            .check("the length of the user's name in bytes", text.len())
            .map_err(|e| TextError::new(e.to_string()))?;
        if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
            return Err(TextError::not(
                text,
                "a user's name",
                "use any characters but ':' and control characters",
            ));
        }
        Ok(UserName(text.to_owned()))
    }
}

text_form!(UserName);

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of an htpasswd file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: UserName,
    pub hash: PasswordHash,
}

impl FromStr for User {
    type Err = TextError;

    fn from_str(line: &str) -> Result<Self, TextError> {
        let (name, hash) = line
            .split_once(':')
            .ok_or_else(|| TextError::new("the line has no ':' between name and hash"))?;
        Ok(User {
            name: name.parse()?,
            hash: hash.parse()?,
        })
    }
}

/// Who may come in with a password. Without users nobody is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasicAuth {
    /// What browsers show beside the prompt.
    pub realm: FieldValue,
    pub users: Vec<User>,
}

impl Default for BasicAuth {
    fn default() -> Self {
        BasicAuth {
            realm: "Restricted".parse().expect("visible ASCII"),
            users: Vec::new(),
        }
    }
}

impl BasicAuth {
    pub fn is_on(&self) -> bool {
        !self.users.is_empty()
    }

    /// Whether these are a user's name and password. An unknown name costs as much time as a wrong password.
    pub fn accepts(&self, name: &str, password: &str) -> bool {
        let known = self.users.iter().find(|user| user.name.as_str() == name);
        let Some(user) = known.or(self.users.first()) else {
            return false;
        };
        let right = user.hash.accepts(password);
        right && known.is_some()
    }

    pub(super) fn check(&self) -> Result<(), HttpError> {
        let users = &self.users;
        within(
            "basic_auth.users",
            USERS,
            "the number of users",
            users.len(),
        )?;
        // Inside a quoted string (RFC 9110 section 11.5).
        if self.realm.as_str().contains(['"', '\\']) {
            return Err(HttpError::new(
                "basic_auth.realm",
                "quotes and backslashes do not fit a realm",
            ));
        }
        for (i, user) in users.iter().enumerate() {
            if users[..i].iter().any(|earlier| earlier.name == user.name) {
                return Err(HttpError::new(
                    format!("basic_auth.users[{i}]"),
                    format!("'{}' is there twice", excerpt(user.name.as_str())),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least cost, so that tests are quick.
    fn user(name: &str, password: &str) -> User {
        User {
            name: name.parse().unwrap(),
            hash: PasswordHash::new(password, 4, [7; 16]).unwrap(),
        }
    }

    #[test]
    fn the_right_password_of_the_right_user_is_accepted() {
        let auth = BasicAuth {
            users: vec![user("ann", "secret"), user("bob", "other")],
            ..BasicAuth::default()
        };
        assert!(auth.check().is_ok());
        assert!(auth.accepts("ann", "secret") && auth.accepts("bob", "other"));
        let long = "x".repeat(100);
        for (name, password) in [
            ("ann", "other"),
            ("bob", "secret"),
            ("eve", "secret"),
            ("ann", ""),
            ("ann", "secret\0"),
            ("ann", &long),
            ("Ann", "secret"),
        ] {
            assert!(!auth.accepts(name, password), "{name}");
        }
        assert!(!BasicAuth::default().accepts("ann", "secret"));
    }

    #[test]
    fn a_line_of_htpasswd_is_read() {
        // From the test vectors of the jBCrypt library: the hash of "abc" at cost 6.
        let line = "ann:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i";
        let read: User = line.parse().unwrap();
        assert!(read.hash.accepts("abc") && !read.hash.accepts("abd"));
        for bad in [
            "ann",
            "ann:secret",
            ":$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i",
            "ann:$apr1$salt$hash",
            "ann:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=",
            "ann:$2a$31$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i",
            "ann:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0",
            "ann:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0ä",
        ] {
            let error = bad.parse::<User>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn hashes_are_never_shown_and_passwords_never_cut() {
        let ann = user("ann", "secret");
        assert!(!format!("{ann:?}").contains("$2"));
        assert!(ann.hash.as_str().starts_with("$2y$04$"));
        assert!(PasswordHash::new("", 4, [1; 16]).is_err());
        assert!(PasswordHash::new(&"x".repeat(72), 4, [1; 16]).is_err());
        let longest = "x".repeat(71);
        assert!(
            PasswordHash::new(&longest, 4, [1; 16])
                .unwrap()
                .accepts(&longest)
        );
        assert!(PasswordHash::new("a\0b", 4, [1; 16]).is_err());
        let twice = BasicAuth {
            users: vec![ann.clone(), ann],
            ..BasicAuth::default()
        };
        assert_eq!(twice.check().unwrap_err().field, "basic_auth.users[1]");
    }
}
