"""Pieces and the text they stand for."""

from transformers import PreTrainedTokenizerFast

from sparse_rep.corpora.vocabulary import piece_text, tokenizer_digest, vocabulary


def test_pieces_read_as_the_text_they_stand_for() -> None:
    assert piece_text("Ġthe", byte_level=True) == " the"
    assert piece_text("Ċ", byte_level=True) == "\n"
    assert piece_text("é", byte_level=True) == "\\xe9"  # the letter that stands for the byte 0xe9
    assert piece_text("Ã©", byte_level=True) == "é"
    assert piece_text("âĢ", byte_level=True) == "\\xe2\\x80"
    assert piece_text("▁the", byte_level=False) == " the"
    assert piece_text("<0x0A>", byte_level=False) == "\n"
    assert piece_text("<0xE2>", byte_level=False) == "\\xe2"
    assert piece_text("é", byte_level=False) == "é"


def test_every_id_has_a_row_and_texts_spell_what_was_encoded(tokenizer: PreTrainedTokenizerFast) -> None:
    vocab = vocabulary(tokenizer)
    assert vocab["token_id"] == list(range(len(tokenizer)))
    text = "the quick brown fox, the end"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [vocab["piece"][i] for i in ids] == tokenizer.convert_ids_to_tokens(ids)
    assert "".join(vocab["text"][i] for i in ids) == text
    assert [vocab["text"][i] for i in tokenizer("🦊")["input_ids"]] == ["\\xf0", "\\x9f", "\\xa6", "\\x8a"]
    assert vocab["text"][0] == "<s>"


def test_the_digest_is_of_the_tokenizer_and_not_of_its_last_use(tokenizer: PreTrainedTokenizerFast) -> None:
    before = tokenizer_digest(tokenizer)
    tokenizer(["the", "the quick fox"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(tokenizer) == before
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    other.add_tokens(["fox"])
    assert tokenizer_digest(other) != before
