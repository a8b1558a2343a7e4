//! What nodes send each other keeps its form, like what they store: see `nebula_registry`'s test of the same name.

use nebula_domain::level::LEVEL;
use nebula_testkit::forms;

use crate::messages::messages;

#[test]
fn messages_keep_their_form() {
    let messages = messages();
    let line = |m: &crate::messages::Message| (m.kind.name.to_owned(), m.bytes.clone());
    let lines: Vec<_> = messages.iter().map(line).collect();
    let kept = forms::keep(env!("CARGO_MANIFEST_DIR"), LEVEL, "messages.txt", &lines);
    for (message, bytes) in messages.iter().zip(kept) {
        assert!((message.kind.read)(&bytes), "{}", message.kind.name);
    }
}
