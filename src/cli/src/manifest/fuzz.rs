//! Files of any content: what is taken is taken again and would be taken by the cluster, what is refused has a place.

use nebula_testkit::fuzz::Target;
use nebula_wire::convert::{self, Passwords};

use super::file::File;
use super::parse::{Parsed, Wrong, parse};
use crate::toml_text;

fn read(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    // Both ways through the file; the words of the corpus name the environment.
    let in_environment = parse(text, Some("staging")).map(check);
    let plain = parse(text, None).map(check);
    for wrong in [in_environment.err(), plain.err()].into_iter().flatten() {
        placed(text, &wrong);
    }
    // Of the right shape, so that its values were looked at.
    toml::from_str::<File>(text).is_ok()
}

fn check(parsed: Parsed<'_>) {
    let read = convert::spec(&parsed.spec, Some("a.test"), Passwords::Unseen).unwrap();
    let told = convert::told_spec(&read);
    let stored = Passwords::Stored(&read.http.basic_auth.users);
    assert_eq!(convert::spec(&told, None, stored).unwrap(), read);
    for (_, value) in parsed.env {
        let _ = super::interpolate::interpolate(&value, &|_| None);
    }
}

fn placed(text: &str, wrong: &Wrong) {
    assert!(!wrong.reason.is_empty());
    if let Some(span) = &wrong.span {
        assert!(span.start <= text.len(), "{span:?}");
    }
    let at = toml_text::position(text, wrong.span.clone());
    assert!((1..=text.lines().count() + 1).contains(&at.line), "{at:?}");
    assert!(at.column >= 1);
}

#[test]
fn fuzz_deployment_file() {
    let corpus = [
        "name = 'site'\npath = 'dist'\nspa = true\nnames = ['a.test']\n[http.limits]\nbody = '1MiB'\n",
        "name = 'api'\ncommand = './run'\ninstances = 3\nstop_grace = '10s'\n[env]\nA = '${B}'\n[probe]\npath = '/up'\nperiod = '2s'\n",
        "name = 'api'\ncommand = 'x'\n[strategy]\ntype = 'canary'\nsteps = ['10% 2m']\n[environments.staging]\ntld = 'b.test'\n[environments.staging.strategy]\ntype = 'recreate'\n",
        "name = 'api'\ntype = 'service'\ncommand = 'x'\ntld = 'a.test'\n[resources]\nmemory = '64Mi'\ncpu = '500m'\n[isolation]\nnetwork = 'none'\n",
    ];
    let target = Target {
        name: "cli: deployment file",
        corpus: corpus.map(|text| text.as_bytes().to_vec()).to_vec(),
        words: &[
            "'",
            "\"\"\"",
            "[",
            "]]",
            "=",
            "\n",
            "ä",
            "${",
            "environments.staging.",
            "type",
            "image",
            "18446744073709551616",
            "#",
            "{",
            ".",
        ],
        max_bytes: 64 * 1024,
        // The tree of small values, copied for each way of reading it.
        allocated_per_byte: 8192,
        allocated_bytes: 4 * 1024 * 1024,
        understood_percent: 5,
    };
    target.run(read);
}
