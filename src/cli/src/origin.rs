//! Who is at the keyboard, for the history of releases.

/// Longest part that is told; the cluster takes 128 bytes in all.
const PART_BYTES: usize = 60;

/// `user@machine`, as far as the machine says; empty when it says nothing. Told by the client and proven by nobody: it
/// helps colleagues to find each other and gives no rights.
pub fn author() -> String {
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    let user = user
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_default();
    let host = nix::unistd::gethostname().unwrap_or_default();
    let (user, host) = (part(&user), part(&host.to_string_lossy()));
    match (user.is_empty(), host.is_empty()) {
        (true, _) => host,
        (false, true) => user,
        (false, false) => format!("{user}@{host}"),
    }
}

fn part(text: &str) -> String {
    let legal = text
        .chars()
        .filter(|c| !c.is_control() && !c.is_whitespace());
    let mut part = String::new();
    for c in legal {
        if part.len() + c.len_utf8() > PART_BYTES {
            break;
        }
        part.push(c);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_short_and_plain() {
        assert_eq!(part("a b\n\u{7}c"), "abc");
        assert!(part(&"ä".repeat(100)).len() <= PART_BYTES);
    }
}
