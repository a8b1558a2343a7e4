use proptest::prelude::*;

use super::*;

/// What there is at the end: `path`, `path = content`, `path -> target`, in order.
fn told(root: &Root) -> Vec<String> {
    fn walk(folder: &Folder, at: &str, found: &mut Vec<String>) {
        for (name, item) in folder {
            let path = format!("{at}/{}", String::from_utf8_lossy(name));
            match &item.node {
                Node::Folder(inner) => {
                    found.push(format!("{path}/"));
                    walk(inner, &path, found);
                }
                Node::File(content) => found.push(format!("{path} = {content}")),
                Node::Link(target) => {
                    found.push(format!("{path} -> {}", String::from_utf8_lossy(target)));
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(root.top(), "", &mut found);
    found
}

/// `path/`, `path = 1`, `path -> target`, `path == other`.
fn add(root: &mut Root, line: &str) -> Result<(), ImageError> {
    let entry = |path: &str, entry: Entry<'_>, root: &mut Root| root.add(path.as_bytes(), entry);
    if let Some((path, other)) = line.split_once(" == ") {
        entry(path, Entry::Same(other.as_bytes()), root)
    } else if let Some((path, target)) = line.split_once(" -> ") {
        entry(path, Entry::Link(target.as_bytes()), root)
    } else if let Some((path, content)) = line.split_once(" = ") {
        entry(path, Entry::File(content.parse().unwrap()), root)
    } else {
        entry(line, Entry::Folder, root)
    }
}

fn layers(layers: &[&[&str]]) -> Result<Vec<String>, ImageError> {
    let mut root = Root::default();
    for layer in layers {
        root.begin_layer();
        for line in *layer {
            add(&mut root, line)?;
        }
    }
    Ok(told(&root))
}

#[test]
fn upper_layers_lie_over_lower_ones() {
    let found = layers(&[
        &[
            "./",
            "./bin/",
            "bin/sh = 1",
            "etc/a = 2",
            "usr/lib/x = 3",
            "lib -> usr/lib",
        ],
        &[
            "etc/a = 4",
            "etc/b == bin/sh",
            "lib/y = 5",
            "bin/",
            "./usr/lib/z -> x",
        ],
    ]);
    let expected = [
        "/bin/",
        "/bin/sh = 1",
        "/etc/",
        "/etc/a = 4",
        "/etc/b = 1",
        "/lib -> usr/lib",
        "/usr/",
        "/usr/lib/",
        "/usr/lib/x = 3",
        "/usr/lib/y = 5",
        "/usr/lib/z -> x",
    ];
    assert_eq!(found.unwrap(), expected);
    // What is not a folder on both sides is replaced.
    let found = layers(&[&["a/x = 1", "b = 1", "c -> a"], &["a = 2", "b/", "c/"]]);
    assert_eq!(found.unwrap(), ["/a = 2", "/b/", "/c/"]);
}

#[test]
fn whiteouts_hide_what_lower_layers_have_and_nothing_else() {
    let lower: &[&str] = &["a/x = 1", "a/y = 2", "a/sub/z = 3", "b = 4"];
    let found = layers(&[lower, &["a/.wh.x = 9", ".wh.b = 9"]]);
    assert_eq!(
        found.unwrap(),
        ["/a/", "/a/sub/", "/a/sub/z = 3", "/a/y = 2"]
    );
    // Whatever the order in the layer.
    for order in [
        ["a/new = 5", "a/sub/n = 6", "a/.wh..wh..opq = 9"],
        ["a/.wh..wh..opq = 9", "a/new = 5", "a/sub/n = 6"],
    ] {
        let found = layers(&[lower, &order]).unwrap();
        let expected = ["/a/", "/a/new = 5", "/a/sub/", "/a/sub/n = 6", "/b = 4"];
        assert_eq!(found, expected);
    }
    let found = layers(&[lower, &["a = 5", ".wh.a = 9"]]);
    assert_eq!(found.unwrap(), ["/a = 5", "/b = 4"], "its own stays");
    let found = layers(&[
        lower,
        &["nowhere/.wh.x = 9", ".wh.none = 9", ".wh..wh.plnk/"],
    ]);
    assert_eq!(found.unwrap().len(), 6);
    for bad in [".wh. = 1", ".wh... = 1", ".wh.. = 1"] {
        assert!(layers(&[&[bad]]).is_err(), "{bad}");
    }
}

#[test]
fn links_lead_nowhere_but_within_the_root() {
    let found = layers(&[
        &[
            "out -> ../../etc",
            "abs -> /srv",
            "deep/up -> ../..",
            "home -> abs",
        ],
        &["out/passwd = 1", "abs/x = 2", "deep/up/y = 3", "home/z = 4"],
    ]);
    let expected = [
        "/abs -> /srv",
        "/deep/",
        "/deep/up -> ../..",
        "/etc/",
        "/etc/passwd = 1",
        "/home -> abs",
        "/out -> ../../etc",
        "/srv/",
        "/srv/x = 2",
        "/srv/z = 4",
        "/y = 3",
    ];
    assert_eq!(found.unwrap(), expected);
    // The last part of a path is not followed: the link itself is replaced, or linked to.
    let found = layers(&[&["l -> /etc/shadow"], &["l = 1"]]);
    assert_eq!(found.unwrap(), ["/l = 1"]);
    let found = layers(&[&["l -> /etc/shadow", "m == l"]]);
    assert_eq!(found.unwrap(), ["/l -> /etc/shadow", "/m -> /etc/shadow"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let long = "x".repeat(256);
    let deep = "d/".repeat(65);
    let longer = "y/".repeat(600);
    for (bad, why) in [
        (&["../x = 1"][..], "'..' is not allowed"),
        (&["a/../x = 1"], "'..' is not allowed"),
        (&["a = 1", "a/b = 2"], "below a file"),
        (&["a -> b", "b -> a", "a/x = 1"], "too many links"),
        (&["x == y"], "hard link"),
        (&["d/", "x == d"], "hard link"),
        (&["x == /"], "hard link"),
        (&["x -> "], "link to nothing"),
        (&["/ = 1"], "the root"),
        (&[&format!("{long} = 1")], "artifact_name_bytes"),
        (&[&deep], "artifact_depth"),
        (&[&longer], "artifact_path_bytes"),
        (&[&format!("x -> {longer}")], "artifact_link_bytes"),
        // Where a link leads is checked as well.
        (&[&format!("x -> {long}"), "x/y = 1"], "artifact_name_bytes"),
    ] {
        let error = layers(&[bad]).unwrap_err().to_string();
        assert!(error.contains(why), "{bad:?}: {error}");
    }
}

/// Each lookup is within its limits, and there are many.
#[test]
fn links_lead_only_so_far_in_all() {
    let mut root = Root::default();
    root.begin_layer();
    // Through the same folder and out of it again.
    let around = "d/../".repeat(200);
    add(&mut root, "d/").unwrap();
    for link in 0..30 {
        add(&mut root, &format!("l{link} -> {around}l{}", link + 1)).unwrap();
    }
    let mut added = 0;
    let refused = loop {
        match add(&mut root, &format!("l0/f{added} = 1")) {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
        assert!(added < 1_000, "nobody stops it");
    };
    assert!(added > 100, "{added}");
    let why = refused.to_string();
    assert!(why.contains("image_link_names"), "{why}");
}

#[test]
fn as_many_entries_as_there_may_be_can_lie_behind_a_link() {
    let mut root = Root::default();
    root.begin_layer();
    add(&mut root, "usr/lib/").unwrap();
    add(&mut root, "lib -> ../../usr/lib").unwrap();
    for number in 2..MAX_ENTRIES {
        let path = format!("lib/{number}");
        root.add(path.as_bytes(), Entry::File(1)).unwrap();
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "..", ".wh.a", ".wh..wh..opq", "."])
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..5).prop_map(|names| names.join("/"))
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        path().prop_map(|path| format!("{path}/")),
        (path(), 0u64..9).prop_map(|(path, content)| format!("{path} = {content}")),
        (path(), path(), any::<bool>()).prop_map(|(path, target, absolute)| {
            let slash = if absolute { "/" } else { "" };
            format!("{path} -> {slash}{target}")
        }),
        (path(), path()).prop_map(|(path, other)| format!("{path} == {other}")),
    ]
}

proptest! {
    /// Whatever the layers say: every name is one name, nothing lies below a link or a file, no whiteout is left, and the
    /// same layers once more change nothing but what hard links lead to.
    #[test]
    fn what_comes_of_layers_is_a_tree_of_plain_names(
        layers in prop::collection::vec(prop::collection::vec(line(), 0..12), 1..4)
    ) {
        let mut root = Root::default();
        for layer in &layers {
            root.begin_layer();
            for line in layer {
                let _ = add(&mut root, line);
            }
        }
        fn check(folder: &Folder) {
            for (name, item) in folder {
                assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0));
                assert!(&name[..] != b"." && &name[..] != b"..");
                if let Node::Folder(inner) = &item.node {
                    check(inner);
                }
            }
        }
        check(root.top());
    }

    /// A layer that is opaque at the top hides everything below it.
    #[test]
    fn an_opaque_root_is_a_new_beginning(
        lower in prop::collection::vec(line(), 0..12), upper in prop::collection::vec("[ab]/[ab] = 1", 0..6)
    ) {
        let mut alone = Root::default();
        alone.begin_layer();
        let mut over = Root::default();
        over.begin_layer();
        for line in &lower {
            let _ = add(&mut over, line);
        }
        over.begin_layer();
        add(&mut over, ".wh..wh..opq = 0").unwrap();
        for line in &upper {
            add(&mut alone, line).unwrap();
            add(&mut over, line).unwrap();
        }
        prop_assert_eq!(told(&alone), told(&over));
    }
}
