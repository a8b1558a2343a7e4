//! Environment files and flags of any content: what is read is told as it was written.

use nebula_testkit::fuzz::Target;

use super::*;
use crate::duration;
use crate::spec::{self, HttpChange, SpecFlags};

fn read(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let _ = duration::parse(text);
    let _ = spec::deployment_name(text);
    let _ = flag(text);
    let Ok(env) = parse(text) else {
        return false;
    };
    for (key, value) in &env {
        check_name(key).unwrap();
        // In single quotes everything is what it is.
        if !value.contains(['\'', '\n', '\r']) {
            let again = parse(&format!("{key}='{value}'")).unwrap();
            assert_eq!(again[key], *value);
        }
    }
    let mut words = text.split_whitespace().map(str::to_owned);
    let flags = SpecFlags {
        command: words.next(),
        tld: words.next(),
        health_path: words.next(),
        env: env.into_iter().collect(),
        ..SpecFlags::default()
    };
    // A refusal says what to do.
    if let Err(refused) = flags.to_spec(&HttpChange::default()) {
        assert!(!refused.error.hint.is_empty());
    }
    true
}

#[test]
fn fuzz_spec_and_env_file() {
    let corpus = [
        "\u{feff}# comment\n\nA=1\nexport B=two words # why\nC='it \"is\" #raw'\n",
        "D=\"a\\nb\\\"\\$x\"  # c\nE=\nF = spaced \r\nG=a#b\n",
        "KEY=value",
    ];
    let target = Target {
        name: "cli: spec and env file",
        corpus: corpus.map(|text| text.as_bytes().to_vec()).to_vec(),
        words: &[
            "'", "\"", "\\", "#", " #", "=", "export ", "\n", "\u{feff}", "ä", "\0", "PORT=1",
        ],
        max_bytes: 64 * 1024,
        allocated_per_byte: 128,
        allocated_bytes: 128 * 1024,
        understood_percent: 10,
    };
    target.run(read);
}
