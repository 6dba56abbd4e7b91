//! Finding the batches in what a client sends.

use super::exchange::CLIENT_INPUT_MAX;
use crate::wire::{Header, WireError, frontend};

/// What is at the front of a client's fresh input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    /// More bytes are needed.
    More,
    /// Frames that form a batch, or the beginning of one.
    Batch(Batch),
    /// CopyData, CopyDone or CopyFail of a COPY that is over: to be dropped, as a server does.
    StaleCopy(Header),
    Terminate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// Bytes of the whole frames.
    pub len: usize,
    pub end: BatchEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchEnd {
    /// Query or FunctionCall: ReadyForQuery follows.
    Simple,
    Sync,
    Flush,
    /// Not in sight: the batch, or one of its messages, is larger than the buffer.
    Open,
}

impl Batch {
    /// The one message of a batch that is not in the buffer as a whole, if a ReadyForQuery follows it: a large Query or FunctionCall at
    /// the front of `input`.
    pub(super) fn large_simple(self, input: &[u8]) -> Option<Header> {
        let header = Header::peek(input).ok().flatten().filter(|_| (self.len, self.end) == (0, BatchEnd::Open))?;
        matches!(header.tag, frontend::QUERY | frontend::FUNCTION_CALL).then_some(header)
    }
}

/// Looks for the end of the batch at the front of `input`.
///
/// # Errors
/// A frame that no client may send here.
pub(super) fn gather(input: &[u8]) -> Result<Gathered, WireError> {
    let mut at = 0;
    loop {
        let Some(header) = Header::peek(&input[at..])? else { return Ok(more(at, input.len())) };
        let end = at + header.frame_len();
        let batch = |len, end| Ok(Gathered::Batch(Batch { len, end }));
        match header.tag {
            frontend::TERMINATE if at == 0 => return Ok(Gathered::Terminate),
            // The batch before it is cut off: nothing in it will ever be asked for.
            frontend::TERMINATE => return Ok(Gathered::Terminate),
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL if at == 0 => {
                return Ok(Gathered::StaleCopy(header));
            }
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => return batch(at, BatchEnd::Open),
            frontend::QUERY
            | frontend::FUNCTION_CALL
            | frontend::PARSE
            | frontend::BIND
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::CLOSE
            | frontend::SYNC
            | frontend::FLUSH => {}
            other => return Err(WireError::Unexpected(char::from(other))),
        }
        if end > input.len() {
            return if end > CLIENT_INPUT_MAX { batch(at, BatchEnd::Open) } else { Ok(more(at, input.len())) };
        }
        match header.tag {
            // A Query behind extended messages without a Sync is a batch of its own.
            frontend::QUERY | frontend::FUNCTION_CALL if at > 0 => return batch(at, BatchEnd::Open),
            frontend::QUERY | frontend::FUNCTION_CALL => return batch(end, BatchEnd::Simple),
            frontend::SYNC => return batch(end, BatchEnd::Sync),
            frontend::FLUSH => return batch(end, BatchEnd::Flush),
            _ => at = end,
        }
    }
}

/// The input ends within a batch.
fn more(whole: usize, length: usize) -> Gathered {
    if length >= CLIENT_INPUT_MAX && whole > 0 {
        Gathered::Batch(Batch { len: whole, end: BatchEnd::Open })
    } else {
        Gathered::More
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn frame(tag: u8, body: usize) -> Vec<u8> {
        let mut frame = vec![tag];
        frame.extend_from_slice(&u32::try_from(body + 4).unwrap().to_be_bytes());
        frame.resize(body + 5, b'x');
        frame
    }

    fn batch(len: usize, end: BatchEnd) -> Gathered {
        Gathered::Batch(Batch { len, end })
    }

    #[test]
    fn a_batch_ends_with_sync_flush_or_query() {
        let extended = [frame(b'P', 9), frame(b'B', 7), frame(b'E', 5), frame(b'S', 0), frame(b'P', 9)].concat();
        let len = 14 + 12 + 10 + 5;
        assert_eq!(gather(&extended), Ok(batch(len, BatchEnd::Sync)));
        for cut in 0..len {
            assert_eq!(gather(&extended[..cut]), Ok(Gathered::More), "cut at {cut}");
        }
        assert_eq!(gather(&frame(b'Q', 9)), Ok(batch(14, BatchEnd::Simple)));
        assert_eq!(gather(&[frame(b'D', 2), frame(b'H', 0)].concat()), Ok(batch(12, BatchEnd::Flush)));
    }

    #[test]
    fn a_large_query_is_answered_by_itself() {
        let bytes = [frame(b'Q', CLIENT_INPUT_MAX), frame(b'B', CLIENT_INPUT_MAX)];
        let whole = Batch { len: 14, end: BatchEnd::Open };
        for (input, expected) in [(&bytes[0], Some(b'Q')), (&bytes[1], None)] {
            let Ok(Gathered::Batch(batch)) = gather(&input[..100]) else { panic!("a batch") };
            assert_eq!(batch.large_simple(&input[..100]).map(|header| header.tag), expected);
            assert_eq!(whole.large_simple(&input[..100]), None);
        }
    }

    #[test]
    fn what_does_not_fit_is_left_open() {
        let large = frame(b'B', CLIENT_INPUT_MAX);
        assert_eq!(gather(&large[..100]), Ok(batch(0, BatchEnd::Open)));
        let behind = [frame(b'P', 9), large].concat();
        assert_eq!(gather(&behind[..100]), Ok(batch(14, BatchEnd::Open)));
        let long = frame(b'E', 5).repeat(CLIENT_INPUT_MAX / 10 + 1);
        let whole = CLIENT_INPUT_MAX / 10 * 10 + 10;
        assert_eq!(gather(&long[..whole]), Ok(batch(whole, BatchEnd::Open)));
    }

    /// Where a client loop that takes what `gather` finds has begun to look, when the bytes come in pieces of these lengths.
    fn places(stream: &[u8], pieces: &[usize]) -> Vec<usize> {
        let (mut come, mut at, mut places) = (0, 0, Vec::new());
        let mut pieces = pieces.iter().cycle();
        loop {
            let input = &stream[at.min(come)..come];
            let found = if at > come { Gathered::More } else { gather(input).unwrap() };
            let taken = match found {
                Gathered::More if come == stream.len() => return places,
                Gathered::More => {
                    let room = (at + CLIENT_INPUT_MAX).saturating_sub(come);
                    assert!(room > 0, "more is wanted than there is room for");
                    come = stream.len().min(come + (*pieces.next().unwrap()).min(room));
                    continue;
                }
                // One that is larger than the buffer, or that has to be looked at alone.
                Gathered::Batch(Batch { len: 0, .. }) => Header::peek(input).unwrap().unwrap().frame_len(),
                Gathered::Batch(batch) => batch.len,
                Gathered::StaleCopy(header) => header.frame_len(),
                Gathered::Terminate => return places,
            };
            places.push(at);
            at += taken;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nothing_but_a_message_begins_a_batch(
            frames in vec((select(&b"QPBDECSHFdcf"[..]), prop_oneof![
                8 => 0_usize..40,
                1 => CLIENT_INPUT_MAX - 20..CLIENT_INPUT_MAX + 20,
                1 => CLIENT_INPUT_MAX..3 * CLIENT_INPUT_MAX,
            ]), 1..40),
            pieces in vec(prop_oneof![1_usize..9, 1_usize..100_000], 8..50),
        ) {
            let frames: Vec<_> = frames.into_iter().map(|(tag, body)| frame(tag, body)).collect();
            let begins: Vec<usize> = frames.iter().scan(0, |at, frame| { *at += frame.len(); Some(*at - frame.len()) }).collect();
            let found = places(&frames.concat(), &pieces);
            prop_assert!(found.iter().all(|at| begins.binary_search(at).is_ok()), "{found:?} of {begins:?}");
        }
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        assert!(gather(&frame(b'Z', 1)).is_err());
        assert!(gather(&frame(b'p', 1)).is_err());
        assert_eq!(gather(&frame(b'X', 0)), Ok(Gathered::Terminate));
        assert!(matches!(gather(&frame(b'd', 3)), Ok(Gathered::StaleCopy(_))));
    }
}
