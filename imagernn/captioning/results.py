"""Captions as entries of result_struct.json."""


def result_blob(img_path, captions, **more):
    """One image's entry in result_struct.json, with its n-best list where it has more than one caption.

    captions: the image's list of evaluate.Caption, best first. more: further fields of the entry.
    """
    texts = [{'text': ' '.join(caption.words), 'logprob': caption.logprob,
              'word_logprobs': [round(logprob, 6) for logprob in caption.word_logprobs],
              **({} if caption.attention is None else {'attention': [
                  [round(weight, 4) for weight in word] for word in caption.attention]})} for caption in captions]
    return {'img_path': img_path, **more, 'candidate': texts[0]} | ({'nbest': texts} if len(texts) > 1 else {})
