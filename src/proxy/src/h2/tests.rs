//! A connection's state, fed with frames and asked for what it sends.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use proptest::prelude::*;

use super::frames::{
    ACK, Code, DATA, END_HEADERS, END_STREAM, FrameHead, HEAD_BYTES, HEADERS, PING, PREFACE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, put,
};
use super::hpack::Encoder;
use super::state::{Fatal, State};
use crate::config::Limits;
use crate::h1::FIELDS_MAX;
use crate::metrics::Abuse;
use crate::streams::Head;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, kind, flags, stream, payload);
    out
}

fn get(stream: u32, flags: u8) -> Vec<u8> {
    let mut block = Vec::new();
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/"),
    ];
    for (name, value) in fields {
        Encoder::new().field(&mut block, name.as_bytes(), value.as_bytes(), true);
    }
    frame(HEADERS, END_HEADERS | flags, stream, &block)
}

/// A connection whose client has greeted; what was said by then is forgotten.
fn greeted(limits: &Limits) -> State {
    let mut state = State::new(limits);
    state.receive(PREFACE).unwrap();
    state.receive(&frame(SETTINGS, 0, 0, &[])).unwrap();
    state.receive(&frame(SETTINGS, ACK, 0, &[])).unwrap();
    said(&mut state);
    state
}

/// What has been said since: kind, stream, and the payload.
fn said(state: &mut State) -> Vec<(u8, u32, Vec<u8>)> {
    let mut out = Vec::new();
    state.hand_over(&mut out);
    let (mut rest, mut frames) = (&out[..], Vec::new());
    while let Some(head) = FrameHead::read(rest) {
        let (payload, behind) = rest[HEAD_BYTES..].split_at(head.length);
        frames.push((head.kind, head.stream, payload.to_vec()));
        rest = behind;
    }
    assert!(rest.is_empty());
    frames
}

fn kinds(state: &mut State) -> Vec<(u8, u32)> {
    let said = said(state).into_iter();
    said.map(|(kind, stream, _)| (kind, stream)).collect()
}

fn answer(state: &mut State, stream: u32, end: bool) {
    let text = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\n\r\n";
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let head = Head::read(text, &mut slots, false).unwrap();
    state.send_head(stream, &head, end).unwrap();
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Count>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn idle_frames_and_resets_are_bounded_apart() {
    let limits = Limits::default();
    for (kind, payload, max, abuse) in [
        (SETTINGS, 0, limits.http2_idle_frames, Abuse::Frames),
        (PING, 8, limits.http2_idle_frames, Abuse::Frames),
        (
            WINDOW_UPDATE,
            4,
            limits.http2_idle_frames / 2,
            Abuse::Frames,
        ),
        (0x20, 3, limits.http2_idle_frames, Abuse::Frames),
        (DATA, 0, limits.http2_idle_frames, Abuse::Frames),
        (RST_STREAM, 4, limits.http2_resets, Abuse::Resets),
    ] {
        let mut state = greeted(&limits);
        state.receive(&get(1, 0)).unwrap();
        let stream = if matches!(kind, SETTINGS | PING | WINDOW_UPDATE) {
            0
        } else {
            1
        };
        let payload: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 0][..payload];
        let one = frame(kind, 0, stream, payload);
        // The greeting took two.
        let taken = state.receive(&one.repeat(max as usize - 2));
        assert_eq!(taken, Ok(()), "{kind}");
        // More than the time that this takes can earn.
        let too_much = state.receive(&one.repeat(max as usize));
        assert_eq!(too_much, Err(Fatal::calm(abuse)), "{kind}");
    }
}

#[test]
fn a_client_that_takes_much_may_say_much() {
    let mut state = greeted(&Limits::default());
    let cx = Context::from_waker(Waker::noop());
    let window = |stream| frame(WINDOW_UPDATE, 0, stream, &16_384_u32.to_be_bytes());
    for stream in (1..20_000).step_by(2) {
        let said = [
            get(stream, END_STREAM),
            window(0),
            window(stream),
            frame(PING, 0, 0, &[7; 8]),
        ];
        state.receive(&said.concat()).unwrap();
        answer(&mut state, stream, false);
        let sent = state.poll_data(stream, &cx, &[0; 16_384], false);
        assert!(matches!(sent, Poll::Ready(Ok(16_384))));
        let reset = frame(RST_STREAM, 0, stream, &[0; 4]);
        state.receive(&reset).unwrap();
        state.close(stream);
        state.out.clear();
        state.content = 0;
    }
    // A window that is opened byte by byte.
    state.receive(&get(20_001, END_STREAM)).unwrap();
    let mut told = Ok(());
    for _ in 0..3_000 {
        told = told
            .and_then(|()| state.receive(&frame(WINDOW_UPDATE, 0, 20_001, &1_u32.to_be_bytes())));
        let _ = state.poll_data(20_001, &cx, &[0], false);
        state.hand_over(&mut Vec::new());
    }
    assert_eq!(told, Err(Fatal::calm(Abuse::Frames)));
}

#[test]
fn streams_that_share_a_small_window_have_it_in_turn() {
    let mut state = greeted(&Limits::default());
    let counts: Vec<_> = (0..3).map(|_| Arc::new(Count::default())).collect();
    let wakers: Vec<_> = counts.iter().map(|c| Waker::from(Arc::clone(c))).collect();
    let all: Vec<u8> = [1, 3, 5]
        .iter()
        .flat_map(|id| get(*id, END_STREAM))
        .collect();
    // Of streams there is more room than of the connection.
    let window = frame(SETTINGS, 0, 0, &[0, 4, 0, 255, 255, 255]);
    state.receive(&[all, window].concat()).unwrap();
    let content = [7; 65_536];
    let mut taken = [0; 3];
    let mut send = |state: &mut State, of: usize| {
        let id = [1, 3, 5][of];
        let cx = Context::from_waker(&wakers[of]);
        while let Poll::Ready(sent) = state.poll_data(id, &cx, &content, false) {
            taken[of] += sent.unwrap();
            state.hand_over(&mut Vec::new());
        }
        taken[of]
    };
    assert_eq!(send(&mut state, 0), 65_535);
    assert_eq!((send(&mut state, 1), send(&mut state, 2)), (0, 0));
    let more = frame(WINDOW_UPDATE, 0, 0, &20_000_u32.to_be_bytes());
    for _ in 0..3 {
        state.receive(&more).unwrap();
        // Whoever is not woken leaves it to those who are.
        let mut turns = 0;
        while let Some(of) = (0..3).find(|of| counts[*of].0.swap(0, Ordering::Relaxed) > 0) {
            send(&mut state, of);
            turns += 1;
        }
        assert!((1..10).contains(&turns));
    }
    assert_eq!(taken.iter().sum::<usize>(), 65_535 + 60_000);
    assert!(taken[1] > 15_000 && taken[2] > 15_000, "{taken:?}");
}

#[test]
fn content_is_given_back_whoever_takes_it() {
    let limits = Limits {
        http2_stream_window: 1000,
        http2_connection_window: 65_535,
        ..Limits::default()
    };
    let mut state = greeted(&limits);
    let data = frame(DATA, 0, 1, &[7; 400]);
    state
        .receive(&[get(1, 0), data.clone(), data].concat())
        .unwrap();
    state.release(1, 400);
    assert_eq!(kinds(&mut state), []);
    state.release(1, 400);
    assert_eq!(
        said(&mut state),
        [(WINDOW_UPDATE, 1, 800_u32.to_be_bytes().to_vec())]
    );
    // More than there is room for.
    let data = frame(DATA, 0, 1, &[7; 1001]);
    state.receive(&data).unwrap();
    let reset = (RST_STREAM, 1, Code::FLOW_CONTROL_ERROR.0.to_be_bytes());
    assert_eq!(said(&mut state), [(reset.0, reset.1, reset.2.to_vec())]);
    // What is still under way is counted, and given back at once.
    let data = frame(DATA, 0, 1, &[7; 16_000]);
    state.receive(&data.repeat(3)).unwrap();
    let room = kinds(&mut state);
    assert_eq!(room, [(WINDOW_UPDATE, 0)]);
    state.close(1);
    assert_eq!(state.receive(&data), Ok(()));
    assert_eq!(state.room + i64::from(state.owed), 65_535);
}

#[test]
fn what_ends_is_told() {
    let mut state = greeted(&Limits::default());
    // An answer before the whole request has come (RFC 9113 section 8.1).
    state
        .receive(&[get(1, 0), get(3, END_STREAM)].concat())
        .unwrap();
    answer(&mut state, 1, true);
    state.close(1);
    assert_eq!(kinds(&mut state), [(HEADERS, 1), (RST_STREAM, 1)]);
    assert_eq!(state.receive(&frame(DATA, END_STREAM, 1, b"x")), Ok(()));
    // A whole one needs no more words, and its client may say none.
    answer(&mut state, 3, true);
    state.close(3);
    assert_eq!(kinds(&mut state), [(HEADERS, 3)]);
    let late = state.receive(&frame(DATA, END_STREAM, 3, b"x"));
    assert_eq!(late, Err(Code::STREAM_CLOSED.into()));
    // One that is taken back before anybody has looked at it is nobody's.
    let mut state = greeted(&Limits::default());
    let reset = frame(RST_STREAM, 0, 1, &[0; 4]);
    state.receive(&[get(1, 0), reset].concat()).unwrap();
    assert!(state.opened.is_empty() && state.entries.is_empty());
    assert_eq!(kinds(&mut state), []);
}

proptest! {
    /// Heads that are as long as may be come in as many frames as they need.
    #[test]
    fn long_heads_come_in_pieces(values in prop::collection::vec(0_usize..9000, 0..8)) {
        let mut text = "HTTP/1.1 200 OK\r\n".to_owned();
        for (at, length) in values.iter().enumerate() {
            text += &format!("x-{at}: {}\r\n", "y".repeat(*length));
        }
        text += "\r\n";
        let mut state = greeted(&Limits::default());
        state.receive(&get(1, END_STREAM)).unwrap();
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let head = Head::read(text.as_bytes(), &mut slots, false).unwrap();
        state.send_head(1, &head, true).unwrap();
        let frames = said(&mut state);
        prop_assert!(frames.iter().all(|(_, _, payload)| payload.len() <= 16_384));
        let block: Vec<u8> = frames.into_iter().flat_map(|(_, _, payload)| payload).collect();
        let mut section = crate::streams::Section::default();
        let whole = super::hpack::Decoder::new().decode(&block, 1 << 20, &mut section);
        prop_assert_eq!(whole, Ok(true));
        let lengths: Vec<_> = section.iter().skip(1).map(|(_, value)| value.len()).collect();
        prop_assert_eq!(lengths, values);
    }
}
