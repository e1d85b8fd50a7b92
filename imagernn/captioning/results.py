"""Captions as entries of result_struct.json."""



def result_blob(img_path, captions, logprobs, **more):
    """One image's entry in result_struct.json, with its n-best list where there is more than one caption.

    captions and logprobs: what caption_images and word_logprobs found of it.
    """
    texts = [{'text': ' '.join(words), 'logprob': logprob, 'word_logprobs': [round(each, 6) for each in of_words]}
             for (logprob, words), of_words in zip(captions, logprobs, strict=True)]
    return {'img_path': img_path, **more, 'candidate': texts[0]} | ({'nbest': texts} if len(texts) > 1 else {})
