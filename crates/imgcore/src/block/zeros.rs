/// Returns whether all bytes are zeros.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // A page differs early or not at all: the first bytes decide most cases.
    let (head, rest) = bytes.split_at(bytes.len().min(64));
    head.iter().all(|byte| *byte == 0) && rest.chunks(4096).all(|chunk| chunk.iter().fold(0, |seen, byte| seen | *byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn zeros_are_recognized_wherever_the_other_byte_is() {
        for len in [0, 1, 64, 65, 5000, 9000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, 63, 64, 4999, 8999] {
                if at < len {
                    bytes[at] = 1;
                    assert!(!is_zero(&bytes));
                    bytes[at] = 0;
                }
            }
        }
    }
}
