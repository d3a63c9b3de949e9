"""Video in (sources, ``RTSPDecoder``) and out (encoder, FFmpeg, ``FFmpegPublisher``)."""
