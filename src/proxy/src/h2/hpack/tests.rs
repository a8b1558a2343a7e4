use super::*;
use crate::streams::huffman::tests::encode as huffman;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, DecodeError> {
    let mut section = Section::default();
    decoder.decode(block, MAX, &mut section)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(section.iter().map(|(n, v)| (text(n), text(v))).collect())
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    pairs.iter().map(owned).collect()
}

#[test]
fn examples_of_the_standard() {
    // RFC 7541 appendix C.4: three requests, in Huffman's code, with a table that grows.
    let start = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    let mut decoder = Decoder::new();
    for (block, fields) in [
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", pairs(&start)),
        (
            "828684be5886a8eb10649cbf",
            pairs(&[&start[..], &[("cache-control", "no-cache")]].concat()),
        ),
        (
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            pairs(&[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                (":authority", "www.example.com"),
                ("custom-key", "custom-value"),
            ]),
        ),
    ] {
        let block = hex::decode(block).unwrap();
        assert_eq!(decoded(&mut decoder, &block), Ok(fields));
    }
}

#[test]
fn what_is_too_long_is_read_on_for_the_table_and_then_no_further() {
    let mut decoder = Decoder::new();
    let mut block = vec![0x40, 1, b'x'];
    put_string(&mut block, &[b'y'; 967]);
    let mut section = Section::default();
    // A field of a thousand, as it is counted.
    assert_eq!(decoder.decode(&block, 999, &mut section), Ok(false));
    assert_eq!(section.len(), 0);
    assert_eq!(decoder.decode(&[0xbe], 1000, &mut section), Ok(true));
    assert_eq!(section.len(), 1);
    assert_eq!(decoder.decode(&[0xbe; 4], 1000, &mut section), Ok(false));
    let endless = decoder.decode(&[0xbe; 5], 1000, &mut section);
    assert_eq!(endless, Err(DecodeError::Endless));
}

#[test]
fn blocks_that_are_none_are_refused() {
    for wrong in [
        "80",     // Index 0.
        "be",     // Nothing was said yet.
        "7e",     // Its name neither.
        "8220",   // The table's size behind a field.
        "3fe21f", // More than was allowed.
        "ff",     // An index without an end.
        "ffffffffff7f",
        "000178",     // No value.
        "000178021f", // Half of one.
        "00017881ff", // Padding alone.
        "0001788118",
    ] {
        let block = hex::decode(wrong).unwrap();
        let read = decoded(&mut Decoder::new(), &block);
        assert_eq!(read, Err(DecodeError::Broken), "{wrong}");
    }
    // Sizes change before the first field, also twice.
    let block = hex::decode("203fe11f82").unwrap();
    assert!(decoded(&mut Decoder::new(), &block).is_ok());
}

#[test]
fn what_is_said_again_takes_one_byte() {
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    encoder.field(&mut out, b"server", b"x", false);
    let first = out.len();
    encoder.field(&mut out, b"server", b"x", false);
    assert_eq!(out.len(), first + 1);
    // Not where it would take the place of others.
    for _ in 0..2 {
        out.clear();
        encoder.field(&mut out, b"date", b"now", true);
        assert!(out.len() > 1);
    }
    // What the client takes back is not used any more, and it is told so.
    encoder.resize(0);
    encoder.resize(100);
    out.clear();
    encoder.begin(&mut out);
    assert_eq!(out, [0x20, 0x3f, 69]);
    encoder.field(&mut out, b"server", b"x", false);
    let mut decoder = Decoder::new();
    assert_eq!(decoded(&mut decoder, &out), Ok(pairs(&[("server", "x")])));
}

/// A field as some encoder may write it.
#[derive(Debug, Clone)]
struct Written {
    name: String,
    value: String,
    kind: u8,
    coded: bool,
}

fn written() -> impl Strategy<Value = Written> {
    let name = prop_oneof!["[a-z-]{1,20}", "x-[ab]", Just("server".to_owned())];
    (name, "[ -~]{0,60}|y", 0_u8..3, any::<bool>()).prop_map(|(name, value, kind, coded)| Written {
        name,
        value,
        kind,
        coded,
    })
}

fn string(out: &mut Vec<u8>, text: &str, coded: bool) {
    if coded {
        let text = huffman(text.as_bytes());
        put_integer(out, 0x80, 7, text.len() as u64);
        return out.extend_from_slice(&text);
    }
    put_string(out, text.as_bytes());
}

proptest! {
    #[test]
    fn what_was_said_is_read(
        answers in prop::collection::vec(prop::collection::vec((written(), any::<bool>()), 0..12), 1..8),
        sizes in prop::collection::vec(prop::option::of(0_usize..5000), 8),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for (fields, size) in answers.iter().zip(sizes) {
            if let Some(size) = size {
                encoder.resize(size);
            }
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for (field, alone) in fields {
                encoder.field(&mut block, field.name.as_bytes(), field.value.as_bytes(), *alone);
            }
            let said: Vec<_> = fields.iter().map(|(f, _)| (f.name.clone(), f.value.clone())).collect();
            prop_assert_eq!(decoded(&mut decoder, &block), Ok(said));
        }
    }

    #[test]
    fn however_it_is_said_it_is_read(fields in prop::collection::vec(written(), 0..20)) {
        let mut block = Vec::new();
        for field in &fields {
            block.push([0x00, 0x10, 0x40][usize::from(field.kind)]);
            string(&mut block, &field.name, field.coded);
            string(&mut block, &field.value, !field.coded);
        }
        let said: Vec<_> = fields.iter().map(|f| (f.name.clone(), f.value.clone())).collect();
        let mut decoder = Decoder::new();
        prop_assert_eq!(decoded(&mut decoder, &block), Ok(said));
        // No part of it breaks anything.
        for end in 0..block.len() {
            let _ = decoded(&mut Decoder::new(), &block[..end]);
        }
    }

    #[test]
    fn whatever_comes_is_bounded(block in prop::collection::vec(any::<u8>(), 0..300), max in 0_usize..500) {
        let (mut decoder, mut section) = (Decoder::new(), Section::default());
        let _ = decoder.decode(&block, max, &mut section);
        prop_assert!(section.text_bytes() <= ENDLESS * max + 4096 * 2);
    }
}
