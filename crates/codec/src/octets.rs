//! Bytes as base64 text, as lenient as Go reads them: line ends inside and stray bits at the end are passed over.

use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, PAD};
use base64::{DecodeError, Engine};

const LENIENT: GeneralPurpose = GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
const CANONICAL: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD);

/// The bytes of a text; the error is the place of the first letter that does not fit.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, usize> {
    let decoded = if text.contains(['\n', '\r']) { LENIENT.decode(text.replace(['\n', '\r'], "")) } else { LENIENT.decode(text) };
    decoded.map_err(|error| match error {
        DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len() / 4 * 4,
    })
}

/// The canonical text of bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    CANONICAL.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_them() {
        for (text, expected) in
            [("aGk=", Ok(&b"hi"[..])), ("aG\nk=\r\n", Ok(b"hi")), ("aGl=", Ok(b"hi")), ("", Ok(b"")), ("a!Gk", Err(1)), ("aGk", Err(0))]
        {
            assert_eq!(decode(text).as_deref(), expected.as_ref().map(|bytes| *bytes), "{text}");
        }
    }
}
