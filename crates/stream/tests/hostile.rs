//! Random and spoiled bytes: the frame parser never panics, and what it holds stays bounded.

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stream::spdy::*;

fn frames() -> Vec<u8> {
    let mut writer = HeaderWriter::default();
    let mut out = Vec::new();
    let headers = HeaderList::new(&[("streamType", "stdin"), ("requestid", "7")]);
    encode_frame(&Frame::SynStream { stream: 1, fin: false, headers: headers.clone() }, &mut writer, &mut out);
    encode_frame(&Frame::SynReply { stream: 1, fin: true, headers: HeaderList::default() }, &mut writer, &mut out);
    encode_data(1, b"some data", true, &mut out);
    encode_frame(&Frame::RstStream { stream: 3, status: 5 }, &mut writer, &mut out);
    encode_frame(&Frame::Ping { id: 9 }, &mut writer, &mut out);
    encode_frame(&Frame::GoAway { last_stream: 11 }, &mut writer, &mut out);
    encode_frame(&Frame::Headers { stream: 1, fin: false, headers }, &mut writer, &mut out);
    out
}

fn decode(bytes: &[u8], step: usize) -> (Vec<Event>, Result<(), FrameError>) {
    let (mut decoder, mut buffer, mut events) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
        assert!(buffer.len() <= 64 * 1024 + 8 + step, "an incomplete frame may not grow without end");
    }
    (events, Ok(()))
}

#[test]
fn frames_arrive_in_any_pieces() {
    let bytes = frames();
    let (whole, outcome) = decode(&bytes, bytes.len());
    outcome.unwrap();
    assert_eq!(whole.len(), 7);
    assert_eq!(whole[2], Event::Data { stream: 1, bytes: Bytes::from_static(b"some data"), fin: true });
    for step in 1..40 {
        let (events, outcome) = decode(&bytes, step);
        outcome.unwrap();
        let control =
            |events: &[Event]| -> Vec<Event> { events.iter().filter(|event| matches!(event, Event::Control(_))).cloned().collect() };
        assert_eq!(control(&events), control(&whole));
        let data: Vec<u8> = events
            .iter()
            .filter_map(|event| match event {
                Event::Data { bytes, .. } => Some(bytes.to_vec()),
                Event::Control(_) => None,
            })
            .flatten()
            .collect();
        assert_eq!(data, b"some data");
    }
}

#[test]
fn noise_is_survived() {
    let seed = rand::random();
    // Shown when the test fails.
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let good = frames();
    for _ in 0..20_000 {
        let noise: Vec<u8> = match rng.random_range(0..3) {
            0 => (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
            1 => {
                let mut spoiled = good.clone();
                for _ in 0..rng.random_range(1..6) {
                    let at = rng.random_range(0..spoiled.len());
                    spoiled[at] = rng.random();
                }
                spoiled
            }
            _ => {
                let kind: u8 = rng.random_range(0..12);
                let mut frame = vec![0x80, 3, 0, kind, rng.random(), 0, 0, rng.random_range(0..60)];
                frame.extend((0..60).map(|_| rng.random::<u8>()));
                frame
            }
        };
        let _ = decode(&noise, rng.random_range(1..64));
    }
}

#[test]
fn claims_of_size_cost_nothing() {
    let huge_control = [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff];
    assert!(matches!(decode(&huge_control, 8).1, Err(FrameError::TooLarge(_))));
    let mut huge_data = vec![0, 0, 0, 1, 0, 0xff, 0xff, 0xff];
    huge_data.extend(vec![0; 200_000]);
    let (events, outcome) = decode(&huge_data, 50_000);
    outcome.unwrap();
    assert!(events.iter().all(|event| matches!(event, Event::Data { bytes, fin: false, .. } if bytes.len() <= 32 * 1024)));
    assert!(matches!(decode(&[0x80, 2, 0, 1, 0, 0, 0, 0], 8).1, Err(FrameError::Version(2))));
}
