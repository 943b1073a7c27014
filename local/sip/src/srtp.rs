//! SRTP (RFC 3711) with the cipher suite that every phone supports, and keys exchanged in the SDP (SDES, RFC 4568).
//! With it, a test can prove that a call is encrypted. These endpoints do not send or read RTCP.

use aws_lc_rs::{
    cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
    constant_time::verify_slices_are_equal,
    error::Unspecified,
    hmac, rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::Error;

/// The name of the cipher suite in SDP.
pub(crate) const SUITE: &str = "AES_CM_128_HMAC_SHA1_80";

const KEY_BYTES: usize = 16;
const SALT_BYTES: usize = 14;
const TAG_BYTES: usize = 10;
/// The size of the RTP header, which is not encrypted.
const HEADER_BYTES: usize = 12;

/// The master key and salt of a stream, which its sender writes into the SDP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct MasterKey([u8; KEY_BYTES + SALT_BYTES]);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

impl MasterKey {
    pub(crate) fn random() -> Result<Self, Error> {
        let mut bytes = [0; KEY_BYTES + SALT_BYTES];
        rand::fill(&mut bytes).map_err(|_| Error::Srtp)?;
        Ok(Self(bytes))
    }

    /// Parses the `inline:` value of an `a=crypto` line. Ignores a lifetime or key identifier after `|`.
    pub(crate) fn read(inline: &str) -> Option<Self> {
        let key = inline.split('|').next()?;
        Some(Self(BASE64.decode(key).ok()?.try_into().ok()?))
    }

    pub(crate) fn inline(self) -> String {
        BASE64.encode(self.0)
    }

    /// Derives a session key (RFC 3711, section 4.3.1, with key derivation rate 0).
    fn derive<const N: usize>(self, label: u8) -> Result<[u8; N], Error> {
        let [key @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _] = &self.0;
        let mut iv = [0; 16];
        iv[..SALT_BYTES].copy_from_slice(&self.0[KEY_BYTES..]);
        // The label is at bit 48 of the 112-bit salt (RFC 3711, section 4.3.1).
        iv[7] ^= label;
        let mut stream = [0; N];
        encrypt(&cipher(key)?, iv, &mut stream)?;
        Ok(stream)
    }
}

/// Protects the packets of one direction of a stream.
pub(crate) struct SrtpContext {
    cipher: EncryptingKey,
    salt: [u8; SALT_BYTES],
    authentication: hmac::Key,
}

impl SrtpContext {
    pub(crate) fn new(key: MasterKey) -> Result<Self, Error> {
        Ok(Self {
            // The labels 0, 1 and 2 give the encryption key, the authentication key and the salt.
            cipher: cipher(&key.derive::<KEY_BYTES>(0)?)?,
            authentication: hmac::Key::new(
                hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                &key.derive::<20>(1)?,
            ),
            salt: key.derive(2)?,
        })
    }

    /// Encrypts and signs a packet. The lower 16 bits of `index` are the packet's sequence number.
    pub(crate) fn protect(&self, packet: &mut Vec<u8>, index: u64) -> Result<(), Error> {
        self.crypt(packet, index)?;
        let tag = self.tag(packet, index);
        packet.extend(&tag.as_ref()[..TAG_BYTES]);
        Ok(())
    }

    /// Decrypts a packet. `None` when the signature does not match.
    pub(crate) fn unprotect(&self, packet: &[u8], index: u64) -> Option<Vec<u8>> {
        let (packet, signature) = packet.split_last_chunk::<TAG_BYTES>()?;
        let tag = self.tag(packet, index);
        verify_slices_are_equal(&tag.as_ref()[..TAG_BYTES], signature).ok()?;
        let mut packet = packet.to_vec();
        self.crypt(&mut packet, index).ok()?;
        Some(packet)
    }

    /// Encrypts or decrypts the payload (RFC 3711, section 4.1.1). AES in counter mode does both.
    fn crypt(&self, packet: &mut [u8], index: u64) -> Result<(), Error> {
        let Some((header, payload)) = packet.split_at_mut_checked(HEADER_BYTES) else {
            return Err(Error::Srtp);
        };
        // IV = (salt * 2^16) XOR (SSRC * 2^64) XOR (index * 2^16).
        let mut iv = [0; 16];
        iv[4..8].copy_from_slice(&header[8..12]);
        iv[8..14].copy_from_slice(&index.to_be_bytes()[2..]);
        iv.iter_mut()
            .zip(self.salt)
            .for_each(|(byte, salt)| *byte ^= salt);
        encrypt(&self.cipher, iv, payload)
    }

    fn tag(&self, packet: &[u8], index: u64) -> hmac::Tag {
        // The signature covers the packet and the rollover counter, which is the upper part of the index.
        let mut signed = hmac::Context::with_key(&self.authentication);
        signed.update(packet);
        signed.update(&index.to_be_bytes()[2..6]);
        signed.sign()
    }
}

/// Estimates the index of a packet from its sequence number, which wraps at 65,535 (RFC 3711, section 3.3.1).
pub(crate) fn index_of(packet: &[u8], latest: Option<u64>) -> Option<u64> {
    let sequence = u16::from_be_bytes(*packet.get(2..4)?.first_chunk()?);
    let Some(latest) = latest else {
        return Some(sequence.into());
    };
    // Read as signed, the difference takes the shorter way around the wrap.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "only the lower 16 bits count"
    )]
    let ahead = sequence.wrapping_sub(latest as u16).cast_signed();
    latest.checked_add_signed(ahead.into())
}

fn cipher(key: &[u8]) -> Result<EncryptingKey, Error> {
    let key = UnboundCipherKey::new(&AES_128, key).map_err(crypto_error)?;
    EncryptingKey::ctr(key).map_err(crypto_error)
}

fn encrypt(cipher: &EncryptingKey, iv: [u8; 16], data: &mut [u8]) -> Result<(), Error> {
    let context = EncryptionContext::Iv128(iv.into());
    cipher
        .less_safe_encrypt(data, context)
        .map_err(crypto_error)?;
    Ok(())
}

fn crypto_error(_: Unspecified) -> Error {
    Error::Srtp
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of RFC 3711, appendix B.3.
    const MASTER: MasterKey = MasterKey([
        0xE1, 0xF9, 0x7A, 0x0D, 0x3E, 0x01, 0x8B, 0xE0, 0xD6, 0x4F, 0xA3, 0x2C, 0x06, 0xDE, 0x41,
        0x39, 0x0E, 0xC6, 0x75, 0xAD, 0x49, 0x8A, 0xFE, 0xEB, 0xB6, 0x96, 0x0B, 0x3A, 0xAB, 0xE6,
    ]);

    fn packet() -> Vec<u8> {
        let mut packet = vec![0x80, 0, 0, 7, 0, 0, 0, 1, 1, 2, 3, 4];
        packet.extend(*b"speech");
        packet
    }

    #[test]
    fn keys_are_derived_as_in_the_rfc() -> Result<(), Error> {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<String>();
        assert_eq!(
            hex(&MASTER.derive::<16>(0)?),
            "C61E7A93744F39EE10734AFE3FF7A087"
        );
        assert_eq!(
            hex(&MASTER.derive::<20>(1)?),
            "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"
        );
        assert_eq!(
            hex(&MASTER.derive::<14>(2)?),
            "30CBBC08863D8C85D49DB34A9AE1"
        );
        Ok(())
    }

    #[test]
    fn a_packet_decrypts_only_with_its_own_key_and_index() -> Result<(), Error> {
        let session = SrtpContext::new(MASTER)?;
        let mut sent = packet();
        session.protect(&mut sent, 7)?;
        assert!(!sent.windows(6).any(|bytes| bytes == b"speech"));
        assert_eq!(session.unprotect(&sent, 7), Some(packet()));
        assert_eq!(session.unprotect(&sent, 0x1_0007), None);
        let other = SrtpContext::new(MasterKey::random()?)?;
        assert_eq!(other.unprotect(&sent, 7), None);
        sent[13] ^= 1;
        assert_eq!(session.unprotect(&sent, 7), None);
        Ok(())
    }

    #[test]
    fn the_index_continues_when_the_sequence_number_wraps() {
        let at = |sequence: u16| {
            let [high, low] = sequence.to_be_bytes();
            [0x80, 0, high, low]
        };
        assert_eq!(index_of(&at(65_535), None), Some(65_535));
        assert_eq!(index_of(&at(0), Some(65_535)), Some(65_536));
        assert_eq!(index_of(&at(65_535), Some(65_536)), Some(65_535));
        assert_eq!(index_of(&at(9), Some(65_540)), Some(65_545));
    }

    #[test]
    fn a_key_can_be_written_and_parsed() {
        assert_eq!(MasterKey::read(&MASTER.inline()), Some(MASTER));
        let with_lifetime = format!("{}|2^20|1:4", MASTER.inline());
        assert_eq!(MasterKey::read(&with_lifetime), Some(MASTER));
        assert_eq!(MasterKey::read("c2hvcnQ="), None);
    }
}
