//! Files of any content for `--http`: what is taken is taken again as it is told, and what is refused has a line.

use nebula_testkit::fuzz::Target;

use super::*;

fn read(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match parse(text) {
        Ok(http) => {
            let policy = convert::policy(&http, Passwords::Unseen).unwrap();
            let told = convert::told_policy(&policy);
            let stored = Passwords::Stored(&policy.basic_auth.users);
            assert_eq!(convert::policy(&told, stored).unwrap(), policy);
            true
        }
        Err((line, reason)) => {
            assert!((1..=text.lines().count() + 1).contains(&line), "{line}");
            assert!(!reason.is_empty());
            // Of the right shape, so that its values were looked at.
            toml::from_str::<Http>(text).is_ok()
        }
    }
}

#[test]
fn fuzz_http_file() {
    let corpus = [
        "names = ['a.test', '*.a.test', 'b.test/x']\nhttps = 'both'\nsticky = 'on'\n[limits]\nbody = '1MiB'\n",
        "[[rules]]\npath = '/a'\nredirect = '/b{rest}{query}'\ncode = 302\n[[rules]]\nstatus = 404\nheaders = ['x: y']\n",
        "balance = 'hash cookie sid'\n[[rate_limits]]\nlimit = '10r/s burst=20 nodelay'\nexempt = ['/h']\n",
        "[security]\nhsts = '1d'\n[cors]\norigins = ['https://a.test']\nmax_age = '5m'\n[addresses]\ndeny = ['10.0.0.0/8']\n",
        "weights = { r1 = 3 }\n[basic_auth]\nusers = ['ann']\n[cache]\non = true\n[maintenance]\non = true\n",
    ];
    let target = Target {
        name: "cli: HTTP file",
        corpus: corpus.map(|text| text.as_bytes().to_vec()).to_vec(),
        words: &[
            "'",
            "\"\"\"",
            "[",
            "]]",
            "=",
            "\n",
            "ä",
            "{rest}",
            "/%2e",
            "*",
            "18446744073709551616",
            "#",
            "{",
            ".",
        ],
        max_bytes: 64 * 1024,
        // Two parses of the text, and a tree of small values.
        allocated_per_byte: 2048,
        allocated_bytes: 1024 * 1024,
        understood_percent: 5,
    };
    target.run(read);
}
